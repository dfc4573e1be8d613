"""Reads the scenes that pairs are made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from difix3d_ns.curation.start_points import StartPoints
from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import distinct_names, path_here, photo_names, unused_name, without_parent_steps
from difix3d_ns.images.scene_formats import WHAT_A_SCENE_IS, format_of

PATHS_IN_FRAME = ("file_path", "mask_path", "depth_file_path")
SPLIT_KEYS = ("train_filenames", "val_filenames", "test_filenames")


@dataclass(frozen=True)
class Scene:
    """A scene to make pairs from."""

    name: str
    """Unique name of the scene, used for the folder of its pairs and in their ids."""
    path: Path
    """The transforms JSON, or the folder of a scene of COLMAP, Blender or another program."""
    transforms: dict[str, Any]
    """Content of the JSON, with absolute paths and without its split."""
    photos: tuple[str, ...]
    """Absolute paths of all photos, sorted."""
    listed_training_photos: tuple[str, ...]
    """Absolute paths of the photos that the scene lists for training, sorted; empty if it lists none."""
    points: StartPoints | None = field(default=None, compare=False, repr=False)
    """Start points of a scene without a transforms JSON, which otherwise names their file."""

    @property
    def location(self) -> str:
        """The scene's path without links, which tells it from other scenes of the same name."""
        return str(self.path.resolve())

    def name_of_photo(self) -> dict[str, str]:
        """A short unique name for each photo."""
        names = photo_names([Path(photo) for photo in self.photos])
        return dict(zip(self.photos, names, strict=True))

    def split_transforms(self, train: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
        """The transforms with these photos to train on and to hold out.

        nerfstudio needs an evaluation split, so this consists of the training photos if none are held out.
        """
        evaluated = list(held_out or train)
        return {**self.transforms, **dict(zip(SPLIT_KEYS, (list(train), evaluated, evaluated), strict=True))}


def read_scene(path: Path) -> Scene:
    """Reads a scene.

    Args:
        path: a scene that one of nerfstudio's dataparsers reads, see `dataparser_for`.

    Raises:
        Difix3DError: the scene does not exist, cannot be read, or has no photos.
    """
    if format_of(path) not in (None, "nerfstudio-data") and path.exists():
        return _read_converted(Path(os.path.abspath(path)))
    file = Path(os.path.abspath(path / "transforms.json" if path.is_dir() else path))
    if not file.exists():
        raise Difix3DError(f"the scene {path} is missing: give {WHAT_A_SCENE_IS}.")
    try:
        transforms = json.loads(file.read_text())
        frames = [_with_absolute_paths(frame, file.parent) for frame in transforms["frames"]]
        if "ply_file_path" in transforms:
            transforms["ply_file_path"] = _absolute(transforms["ply_file_path"], file.parent)
        listed = {_absolute(name, file.parent) for name in transforms.get("train_filenames") or ()}
    except KeyError as error:
        raise Difix3DError(f"the scene {path} cannot be read: it has no {error}.") from error
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise Difix3DError(f"the scene {path} cannot be read: {reason_of(error)}.") from error
    photos = tuple(sorted(frame["file_path"] for frame in frames))
    if not photos:
        raise Difix3DError(f"the scene {path} has no photos: its `frames` are empty.")
    if nameless := [photo for photo in photos if not Path(photo).name]:
        raise Difix3DError(
            f"the scene {path} has a frame whose `file_path` {nameless[0]} is no file: name its photo there."
        )
    if unknown := listed.difference(photos):
        name = " ".join(min(unknown).splitlines())  # any text may be listed
        raise Difix3DError(
            f"the scene {path} lists {name} in `train_filenames`, but has no frame for it: write the photo's "
            "`file_path`, or remove it from the list."
        )
    without_split = {key: value for key, value in transforms.items() if key not in SPLIT_KEYS}
    return Scene(_name(file), file, {**without_split, "frames": frames}, photos, tuple(sorted(listed)))


def _read_converted(path: Path) -> Scene:
    # Imported here because it loads nerfstudio.
    from difix3d_ns.curation.converted_scenes import converted

    folder = path if path.is_dir() else path.parent
    scene = converted(path)
    photos = tuple(sorted(frame["file_path"] for frame in scene.transforms["frames"]))
    return Scene(folder.name, folder, scene.transforms, photos, scene.listed_training_photos, scene.points)


def with_distinct_names(scenes: Sequence[Scene], taken: Mapping[str, str] | None = None) -> list[Scene]:
    """Renames scenes with the same name, by including more of their paths or, where these do not differ, by a number.

    Args:
        scenes: distinct scenes.
        taken: locations of scenes that have a name already, by these names. Such a scene keeps its name, and no other
            scene gets it.
    """
    taken = taken or {}
    kept = {location: name for name, location in taken.items()}
    folders = [scene.path.parent if scene.path.suffix == ".json" else scene.path for scene in scenes]
    paths = [folder.parent / scene.name for folder, scene in zip(folders, scenes, strict=True)]
    different = list(dict.fromkeys(paths))
    name_of = dict(zip(different, distinct_names(different), strict=True))
    used = set(taken)
    renamed = []
    for scene, path in zip(scenes, paths, strict=True):
        name = kept.get(scene.location) or unused_name(name_of[path], used)
        used.add(name)
        renamed.append(replace(scene, name=name))
    return renamed


def _with_absolute_paths(frame: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = [key for key in PATHS_IN_FRAME if key in frame or key == "file_path"]
    return {**frame, **{key: _absolute(frame[key], folder) for key in given}}


def _absolute(path: str, folder: Path) -> str:
    return str(without_parent_steps(folder / path_here(path, folder)))


def _name(file: Path) -> str:
    split = file.stem.removeprefix("transforms").strip("_")
    return f"{file.parent.name}-{split}" if split else file.parent.name
