"""Settings of a network's parts, from the JSON files of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, DifixError

MAX_SIZE = 2**20
"""Above any number of channels, pixels, words or diffusion steps."""
MAX_LAYERS_PER_BLOCK = 16
"""Above the depth of any level of a network."""
MAX_LAYERS = 64
"""Above the depth of any text encoder."""
MAX_LEVELS = 16
"""Above the number of levels of any network."""


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of one part.

    Raises:
        DifixError: the file is missing or damaged, or asks for a network so large that building it would fill the
            memory.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):  # diffusers takes a string for a hub id, and asks for it there
            raise ValueError("it holds no settings")
        _check_sizes(content, path)
    except DifixError:
        raise
    except UNEXPECTED_CONTENT as error:
        raise DifixError(f"{path} cannot be read ({error}): the network's folder is incomplete or damaged.") from error
    return content


def _check_sizes(content: object, path: Path, key: str = "") -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            _check_sizes(value, path, name)
    elif isinstance(content, list):
        if "block" in key and len(content) > MAX_LEVELS:
            raise DifixError(f"{path} is not read, as its {key} has {len(content)} entries: no Difix network does.")
        for value in content:
            _check_sizes(value, path, key)
    elif isinstance(content, int):
        limit = MAX_LAYERS_PER_BLOCK if "layers_per_block" in key else MAX_LAYERS if "layers" in key else MAX_SIZE
        if content > limit:
            raise DifixError(f"{path} is not read, as it asks for a {key} above {limit}: no Difix network has that.")
