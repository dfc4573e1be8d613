"""Reads and copies the sets of pseudo views in a run's folder. `writer.py` writes them.

They are PNG and JSON files, for people, for other tools and for resumed runs:

pseudo_views/step-000000400/pseudo_views.json            cameras, references and reasons for rejection
pseudo_views/step-000000400/view-0000.png                a fixed view that teaches
pseudo_views/step-000000400/view-0000-confidence.png     how much each pixel counts; white counts fully
pseudo_views/rejected/step-000000400-view-0003-*.png     the render and the fixed view of a rejected view
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView

INDEX_NAME = "pseudo_views.json"
REJECTED_FOLDER = "rejected"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last bytes of every PNG."""


@dataclass(frozen=True)
class StoredView:
    """A pseudo view whose images are in the run's folder."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    folder: Path
    """The set's folder."""
    image_name: str
    confidence_name: str
    reference: int | None
    """Index of the training photo that the network was given; None if none was near enough."""
    target: int
    """Index of the target that this view moves to."""
    reliability: float
    """Reliability of the network when it made this view, in [0, 1]."""
    mean_confidence: float
    """Mean confidence of its pixels, in [0, 1]."""
    cleaned: bool = True
    """Whether the fixer made the image. Otherwise it is the render itself."""

    def check(self) -> None:
        """Reads only the first and last bytes of the images, which is fast and finds most damage.

        Raises:
            Difix3DError: an image is missing, cut off, or not of the camera's size.
        """
        for name in (self.image_name, self.confidence_name):
            _check_image(self.folder / name, (int(self.camera.width), int(self.camera.height)))

    def load(self) -> PseudoView:
        """Reads the images.

        Raises:
            Difix3DError: an image is missing, damaged, or not of the camera's size.
        """
        size = int(self.camera.width), int(self.camera.height)
        image = _read_image(self.folder / self.image_name, "RGB", size)
        confidence = _read_image(self.folder / self.confidence_name, "L", size)[..., None]
        facts = self.reference, self.target, self.reliability, self.cleaned
        return PseudoView(self.camera, image, confidence, *facts)


def read_set(folder: Path) -> PseudoViewSet:
    """Reads a set without its images, which each view loads on demand.

    Raises:
        Difix3DError: the set's index is missing or damaged, or its layout is unexpected.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        # Folders in names are dropped, so that a foreign index cannot point outside its own folder.
        views = [
            StoredView(
                camera=_read_camera(entry),
                folder=folder,
                image_name=Path(entry["image"]).name,
                confidence_name=Path(entry["confidence"]).name,
                reference=None if entry["reference"] is None else int(entry["reference"]),
                target=int(entry["target"]),
                # Earlier versions did not write these.
                reliability=float(entry.get("reliability", 0.0)),
                mean_confidence=float(entry.get("mean_confidence", 0.0)),
                cleaned=bool(entry.get("cleaned", True)),
            )
            for entry in index["views"]
        ]
        rejected = [
            RejectedView(_read_camera(entry), int(entry["target"]), tuple(entry["reasons"]))
            for entry in index["rejected"]
        ]
        return PseudoViewSet(int(index["step"]), views, rejected)
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise Difix3DError(
            f"the saved novel views {folder / INDEX_NAME} cannot be read ({type(error).__name__}: {error})."
        ) from error


def copy_sets(source: Path, folder: Path, last_step: int) -> None:
    """Copies the sets of `last_step` and before, so that a resumed run can itself be resumed.

    Raises:
        Difix3DError: the sets cannot be copied.
    """
    if source.resolve() == folder.resolve():
        return
    try:
        for saved in saved_sets(source, last_step):
            unfinished = unfinished_folder(folder / saved.name)
            try:
                _link_or_copy(saved.glob("*"), unfinished)
                put_in_place(unfinished, folder / saved.name)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            images = rejected_images(source, saved.name)
            if images:
                _link_or_copy(images, folder / REJECTED_FOLDER)
    except OSError as error:
        raise Difix3DError(
            f"the novel views of {source} cannot be copied into {folder} ({error.strerror or error}): make room."
        ) from error


def unfinished_folder(final: Path) -> Path:
    """Makes an empty folder next to `final`. A set is written there first, so an interrupted run leaves no half set."""
    unfinished = final.with_name(f".{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def put_in_place(unfinished: Path, final: Path) -> None:
    """Moves a complete folder to its final place."""
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)


def rejected_images(folder: Path, name: str) -> list[Path]:
    """Image files of the rejected views of the set `name`."""
    return list((folder / REJECTED_FOLDER).glob(f"{name}-*.png"))


def set_name(step: int) -> str:
    """Folder name of the set of a training step. Names sort by step."""
    return f"step-{step:09d}"


def saved_sets(folder: Path, last_step: int | None = None) -> list[Path]:
    """Folders of the finished sets in `folder`, oldest first; if `last_step` is given, only up to that step."""
    sets = sorted(path for path in folder.glob("step-*") if path.is_dir())
    return [path for path in sets if last_step is None or path.name <= set_name(last_step)]


def _link_or_copy(files: Iterable[Path], folder: Path) -> None:
    """Puts files into a folder, as hard links where possible. Files of a set never change, so they can be shared."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not file.is_file():
            continue
        copy = folder / file.name
        try:
            copy.unlink(missing_ok=True)
            os.link(file, copy)
        except OSError:  # another disk, or a file system without links
            shutil.copy2(file, copy)


def camera_entry(camera: Cameras) -> dict:
    """Converts a camera to its entry in a set's index."""
    return {
        "camera_to_world": camera.camera_to_worlds[0].tolist(),
        **{name: float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy")},
        **{name: int(getattr(camera, name)) for name in ("width", "height")},
        "camera_type": CameraType(int(camera.camera_type)).name,
    }


def _read_camera(entry: dict) -> Cameras:
    names = ("fx", "fy", "cx", "cy", "width", "height")
    pose = torch.tensor(entry["camera_to_world"], dtype=torch.float32)
    if pose.shape != (3, 4) or not pose.isfinite().all():
        raise ValueError("a camera_to_world is not a matrix of 3 x 4 finite numbers")
    wrong = [
        name for name in names if not math.isfinite(entry[name]) or (entry[name] <= 0 and name not in ("cx", "cy"))
    ]
    if wrong:
        raise ValueError(f"the {wrong[0]} of a camera is {entry[wrong[0]]}")
    return Cameras(
        camera_to_worlds=pose[None],
        camera_type=CameraType[entry["camera_type"]],
        metadata={},
        **{name: torch.tensor([[entry[name]]]) for name in names},
    )


def _read_image(path: Path, mode: str, size: tuple[int, int]) -> UInt8[Tensor, "height width *channels"]:
    """Reads an image of the given width and height.

    Raises:
        Difix3DError: the image is missing, damaged or of another size.
    """
    with _opened(path, size) as image:
        return torch.from_numpy(np.array(image.convert(mode)))


def _check_image(path: Path, size: tuple[int, int]) -> None:
    with _opened(path, size), path.open("rb") as file:
        file.seek(-len(PNG_END), os.SEEK_END)
        if file.read() != PNG_END:
            raise ValueError("its end is missing")


@contextmanager
def _opened(path: Path, size: tuple[int, int]) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels, its camera {size[0]} x {size[1]}")
            yield image
    except (*UNEXPECTED_CONTENT, SyntaxError, Image.DecompressionBombError) as error:
        refuse_full_memory(error)
        raise Difix3DError(f"the saved novel view {path} cannot be read ({error}).") from error
