"""Entries of the pairs JSON in the published layout, with metadata on how each pair was made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from difix3d_ns.difix.prompt import PROMPT
from difix3d_ns.files import unused_name

Pairs = dict[str, dict[str, Any]]
"""Pairs by id. Each has `image`, `target_image`, `ref_image`, `prompt`, and the metadata `how`."""
PAIRS_FILE = "pairs.json"
SCENE_PATH = "scene_path"


def pair_entry(image: Path, target: Path, reference: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """Makes one entry.

    Args:
        image: the degraded render.
        target: the photo of the same view.
        reference: a photo of a nearby view, or an aligned reference with alpha.
        how: scene, strategy, step and so on. Readers and later selections use it; the published training ignores it.
    """
    files = {"image": str(image), "target_image": str(target), "ref_image": str(reference)}
    return {**files, "prompt": PROMPT, "how": dict(how)}


def with_scene_path(pairs: Pairs, location: str) -> Pairs:
    """Adds the path of their scene to the metadata of pairs."""
    return {name: {**entry, "how": {**entry["how"], SCENE_PATH: location}} for name, entry in pairs.items()}


def scene_path_of(pairs: Pairs) -> str | None:
    """The path of the scene that pairs were made from; None if they do not say, as those of earlier versions."""
    return next((entry["how"].get(SCENE_PATH) for entry in pairs.values()), None)


def read_pairs_of_job(file: Path) -> Pairs | None:
    """Reads the pairs of a job; None if the file is damaged."""
    try:
        pairs = read_json(file)
        whole = all(isinstance(entry["how"], dict) for entry in pairs.values())
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None
    return pairs if whole else None


def with_moved_pictures(pairs: Pairs, folder: Path, moved: Path) -> Pairs:
    """Adapts the paths of pairs to a moved folder: `moved` replaces `folder` at their start."""

    def path_after(path: str) -> str:
        return str(moved / Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path

    paths = ("image", "target_image", "ref_image")
    return {name: {**entry, **{key: path_after(entry[key]) for key in paths}} for name, entry in pairs.items()}


def with_new_ids(pairs: Pairs, taken: Iterable[str]) -> Pairs:
    """Adds numbers to ids that are taken: scene `a` with photo `sparse-1` can give those of `a-sparse` with `1`."""
    renamed: Pairs = {}
    for name, entry in pairs.items():
        renamed[unused_name(name, {*taken, *renamed})] = entry
    return renamed


def read_json(file: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(file.read_text())


def write_json(content: Any, file: Path) -> None:
    """Writes a JSON file. The file appears only when it is complete."""
    unfinished = file.with_name(f"{file.name}.unfinished-{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.replace(file)
