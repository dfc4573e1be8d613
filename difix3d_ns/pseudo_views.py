"""The bank of fixed novel views: what training draws besides photos, kept as pictures and JSON in the run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image
from torch import Tensor

from difix3d_ns.errors import Difix3DError

INDEX_NAME = "pseudo_views.json"
PSEUDO_VIEW_FOLDER = "pseudo_views"
"""Folder of the fixed views inside a run's folder."""
NUM_SETS_KEPT = 3
"""Sets left on disk: the newest, and older ones for a run that resumes from a checkpoint before the newest."""


@dataclass(frozen=True)
class PseudoView:
    """One novel view, rendered and cleaned."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    image: UInt8[Tensor, "height width 3"]
    """The cleaned render."""
    covered: Bool[Tensor, "height width 1"]
    """Pixels that the render covered; only these teach."""
    reference: int | None
    """Index of the training photo that Difix was given; None where none was near enough."""


@dataclass
class PseudoViewBank:
    """The newest set of pseudo views.

    As published, each fix replaces the set: views of an earlier, worse model do not go on teaching.
    """

    views: list[PseudoView] = field(default_factory=list)
    step: int = -1
    """Training step of the fix that made the set; -1 for none."""

    def __len__(self) -> int:
        return len(self.views)

    def replace(self, views: Sequence[PseudoView], step: int) -> None:
        """Puts a new set in place of the old one."""
        self.views, self.step = list(views), step

    def camera_to_worlds(self) -> Float[Tensor, "num_views 3 4"]:
        """Poses of the set: how far each walk towards its target has come."""
        return torch.cat([view.camera.camera_to_worlds for view in self.views])

    def save(self, folder: Path) -> None:
        """Writes the set to `folder/step-NNNNNNNNN`: a PNG of each view, one of its covered pixels, and a JSON.

        A set is written beside its place and then moved there, so that an interrupted run leaves no half set.
        """
        final = folder / set_name(self.step)
        unfinished = folder / f".{final.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        entries = []
        for index, view in enumerate(self.views):
            image_name, covered_name = f"view-{index:04d}.png", f"view-{index:04d}-covered.png"
            Image.fromarray(view.image.numpy()).save(unfinished / image_name)
            Image.fromarray(view.covered[..., 0].numpy().astype(np.uint8) * 255).save(unfinished / covered_name)
            camera = view.camera
            entries.append(
                {
                    "image": image_name,
                    "covered": covered_name,
                    "reference": view.reference,
                    "camera_to_world": camera.camera_to_worlds[0].tolist(),
                    **{name: float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy")},
                    **{name: int(getattr(camera, name)) for name in ("width", "height")},
                    "camera_type": CameraType(int(camera.camera_type)).name,
                }
            )
        (unfinished / INDEX_NAME).write_text(json.dumps({"step": self.step, "views": entries}, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for outdated in saved_sets(folder)[:-NUM_SETS_KEPT]:
            shutil.rmtree(outdated)

    def restore(self, folder: Path, last_step: int) -> bool:
        """Reads the newest set that was made at `last_step` or before; sets of later steps are to be made again.

        Returns:
            Whether there was one.

        Raises:
            Difix3DError: the set is damaged.
        """
        usable = [path for path in saved_sets(folder) if path.name <= set_name(last_step)]
        if not usable:
            return False
        try:
            index = json.loads((usable[-1] / INDEX_NAME).read_text())
            views = [_read_view(usable[-1], entry) for entry in index["views"]]
        except (OSError, ValueError, KeyError) as error:
            raise Difix3DError(
                f"the saved novel views in {usable[-1]} cannot be read ({error}): delete this folder to make them anew."
            ) from error
        self.replace(views, int(index["step"]))
        return True


def set_name(step: int) -> str:
    """Folder name of the set made at `step`; names sort by step."""
    return f"step-{step:09d}"


def saved_sets(folder: Path) -> list[Path]:
    """Folders of the finished sets in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def camera_with_pose(camera: Cameras, camera_to_world: Float[Tensor, "3 4"]) -> Cameras:
    """`camera`, shape (1,), with another pose: intrinsics, size and type stay.

    Lens distortion is left out: Gaussians are rendered without it, as photos are undistorted for training.
    """
    return Cameras(
        camera_to_worlds=camera_to_world[None].cpu(),
        fx=camera.fx.cpu(),
        fy=camera.fy.cpu(),
        cx=camera.cx.cpu(),
        cy=camera.cy.cpu(),
        width=camera.width.cpu(),
        height=camera.height.cpu(),
        camera_type=camera.camera_type.cpu(),
        metadata={},
    )


def _read_view(folder: Path, entry: dict) -> PseudoView:
    # Names are taken without their folders, so that an index from elsewhere cannot point outside its own.
    with Image.open(folder / Path(entry["image"]).name) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    with Image.open(folder / Path(entry["covered"]).name) as covered:
        covered_pixels = torch.from_numpy(np.array(covered.convert("L")) > 127)[..., None]
    column = {name: torch.tensor([[entry[name]]]) for name in ("fx", "fy", "cx", "cy", "width", "height")}
    camera = Cameras(
        camera_to_worlds=torch.tensor([entry["camera_to_world"]]),
        camera_type=CameraType[entry["camera_type"]],
        metadata={},
        **column,
    )
    return PseudoView(camera=camera, image=pixels, covered=covered_pixels, reference=entry["reference"])
