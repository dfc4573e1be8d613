"""Reads the settings of a network's parts from the JSON files in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, DifixError, reason_of, refuse_full_memory

MAX_SIZE = 2**20
"""Upper bound on numbers of channels, pixels, words and diffusion steps."""
MAX_LAYERS_PER_BLOCK = 16
"""Upper bound on the number of layers in one level of a network."""
MAX_LAYERS = 64
"""Upper bound on the number of layers of a text encoder."""
MAX_LEVELS = 16
"""Upper bound on the number of levels of a network."""


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of one part.

    Raises:
        DifixError: the file is missing or damaged, or describes a network so large that building it would exhaust the
            memory.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):  # diffusers takes a string for a hub id and would query the hub for it
            raise ValueError("it contains no settings")
        _check_sizes(content, path)
    except DifixError:
        raise
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise DifixError(
            f"{path} cannot be read ({reason_of(error)}): the network's folder is incomplete or damaged."
        ) from error
    return content


def _check_sizes(content: object, path: Path, key: str = "") -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            _check_sizes(value, path, name)
    elif isinstance(content, list):
        if "block" in key and len(content) > MAX_LEVELS:
            raise DifixError(
                f"{path} is refused: its {key} has {len(content)} entries, and no Difix network has so many."
            )
        for value in content:
            _check_sizes(value, path, key)
    elif isinstance(content, int):
        limit = MAX_LAYERS_PER_BLOCK if "layers_per_block" in key else MAX_LAYERS if "layers" in key else MAX_SIZE
        if content > limit:
            raise DifixError(f"{path} is refused: its {key} is above {limit}, and no Difix network is that large.")
