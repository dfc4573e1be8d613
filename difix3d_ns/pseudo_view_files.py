"""Sets of pseudo views in a run's folder: PNG and JSON, for people, for other tools and for a run that resumes.

pseudo_views/step-000000400/pseudo_views.json            cameras, references, reasons of rejection
pseudo_views/step-000000400/view-0000.png                a fixed view that teaches
pseudo_views/step-000000400/view-0000-confidence.png     how much each pixel counts, white is fully
pseudo_views/rejected/step-000000400-view-0003-*.png     render and fixed view of a rejected one
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views import PseudoView, PseudoViewSet, RejectedView

INDEX_NAME = "pseudo_views.json"
REJECTED_FOLDER = "rejected"


@dataclass(frozen=True)
class StoredView:
    """A pseudo view whose pictures wait in the run's folder."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    folder: Path
    """The set's folder."""
    image_name: str
    confidence_name: str
    reference: int | None
    """Index of the training photo that Difix was given."""
    target: int
    """Index of the target that this view walks to."""
    reliability: float = 0.0
    """How reliable the network was when it made this view, in [0, 1]."""

    def load(self) -> PseudoView:
        """Reads the pictures.

        Raises:
            Difix3DError: one is missing, damaged, or not of the camera's size.
        """
        size = int(self.camera.width), int(self.camera.height)
        image = _read_image(self.folder / self.image_name, "RGB", size)
        confidence = _read_image(self.folder / self.confidence_name, "L", size)[..., None]
        return PseudoView(self.camera, image, confidence, self.reference, self.target, self.reliability)


def write_set(folder: Path, views: PseudoViewSet, sets_kept: int) -> None:
    """Writes a set into `folder` and removes sets that are too old, and those of later steps.

    Sets of later steps come from a course of training that was given up by resuming before them.

    Args:
        folder: the run's folder of pseudo views.
        views: the set.
        sets_kept: sets that stay, with this one.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing of it is left then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rejected = [_write_rejected(folder, views.step, view) for view in views.rejected]
    except OSError:
        for picture in (folder / REJECTED_FOLDER).glob(f"{set_name(views.step)}-*.png"):
            picture.unlink()
        raise

    def write(unfinished: Path) -> None:
        entries = [_write_view(unfinished, drawable.load()) for drawable in views.views]
        index = {"step": views.step, "views": entries, "rejected": rejected}
        (unfinished / INDEX_NAME).write_text(json.dumps(index, indent=1))

    final = folder / set_name(views.step)
    _put_in_place(final, write)
    for other in saved_sets(folder):
        if other.name > final.name:
            shutil.rmtree(other)
    for outdated in saved_sets(folder)[:-sets_kept]:
        shutil.rmtree(outdated)


def read_set(folder: Path) -> PseudoViewSet:
    """Reads a set's cameras; its pictures stay on disk until they are loaded.

    Raises:
        Difix3DError: the set's index is missing, damaged or laid out otherwise.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        # Names are taken without their folders, so that an index from elsewhere cannot point outside its own.
        views = [
            StoredView(
                camera=_read_camera(entry),
                folder=folder,
                image_name=Path(entry["image"]).name,
                confidence_name=Path(entry["confidence"]).name,
                reference=None if entry["reference"] is None else int(entry["reference"]),
                target=int(entry["target"]),
                reliability=float(entry.get("reliability", 0.0)),  # sets of earlier versions have none
            )
            for entry in index["views"]
        ]
        rejected = [
            RejectedView(_read_camera(entry), int(entry["target"]), tuple(entry["reasons"]))
            for entry in index["rejected"]
        ]
        return PseudoViewSet(int(index["step"]), views, rejected)
    except UNEXPECTED_CONTENT as error:
        raise Difix3DError(
            f"the saved novel views {folder / INDEX_NAME} cannot be read ({type(error).__name__}: {error})."
        ) from error


def copy_sets(source: Path, folder: Path, last_step: int) -> None:
    """Copies the sets made at `last_step` or before, so that a resumed run's folder can itself be resumed from.

    Raises:
        Difix3DError: they cannot be copied.
    """
    if source.resolve() == folder.resolve():
        return
    try:
        for saved in saved_sets(source, last_step):
            _put_in_place(folder / saved.name, lambda unfinished, saved=saved: _copy_files(saved.glob("*"), unfinished))
            pictures = list((source / REJECTED_FOLDER).glob(f"{saved.name}-*.png"))
            if pictures:
                _copy_files(pictures, folder / REJECTED_FOLDER)
    except OSError as error:
        raise Difix3DError(
            f"the novel views of {source} cannot be copied into {folder} ({error.strerror or error}): make room."
        ) from error


def set_name(step: int) -> str:
    """Folder name of the set made at `step`; names sort by step."""
    return f"step-{step:09d}"


def saved_sets(folder: Path, last_step: int | None = None) -> list[Path]:
    """Folders of the finished sets in `folder`, oldest first; none later than `last_step` if it is given."""
    sets = sorted(path for path in folder.glob("step-*") if path.is_dir())
    return [path for path in sets if last_step is None or path.name <= set_name(last_step)]


def _put_in_place(final: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder beside its place and then moves it there, so that an interrupted run leaves no half set."""
    unfinished = final.with_name(f".{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _copy_files(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_file():
            shutil.copy2(file, folder)


def _write_view(folder: Path, view: PseudoView) -> dict:
    image_name, confidence_name = (f"view-{view.target:04d}{suffix}.png" for suffix in ("", "-confidence"))
    Image.fromarray(view.image.numpy()).save(folder / image_name)
    Image.fromarray(view.confidence[..., 0].numpy()).save(folder / confidence_name)
    return {
        "image": image_name,
        "confidence": confidence_name,
        "mean_confidence": round(view.mean_confidence, 4),
        "reference": view.reference,
        "target": view.target,
        "reliability": view.reliability,
        **_camera_entry(view.camera),
    }


def _write_rejected(folder: Path, step: int, view: RejectedView) -> dict:
    entry: dict = {"target": view.target, "reasons": list(view.reasons), **_camera_entry(view.camera)}
    (folder / REJECTED_FOLDER).mkdir(exist_ok=True)
    for name, picture in (("render", view.render), ("fixed", view.fixed)):
        if picture is not None:
            file = f"{REJECTED_FOLDER}/{set_name(step)}-view-{view.target:04d}-{name}.png"
            Image.fromarray(picture.numpy()).save(folder / file)
            entry[name] = f"../{file}"
    return entry


def _camera_entry(camera: Cameras) -> dict:
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
        raise ValueError("a camera_to_world is no matrix of 3 x 4 finite numbers")
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
    """A picture of `size`, width and height.

    Raises:
        Difix3DError: it is missing, damaged or of another size.
    """
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels, its camera {size[0]} x {size[1]}")
            return torch.from_numpy(np.array(image.convert(mode)))
    except (*UNEXPECTED_CONTENT, SyntaxError, Image.DecompressionBombError) as error:
        raise Difix3DError(f"the saved novel view {path} cannot be read ({error}).") from error
