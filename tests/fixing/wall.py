"""A splat of one wall, photos of it, and an enhancer of its renders."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig

HEIGHT, WIDTH, DEPTH = 24, 32, 4.0
GRAYS = (0.2, 0.5, 0.8)


def cameras(*places: float, kind: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    """Cameras beside each other that look along -z."""
    poses = torch.eye(4)[None, :3].repeat(len(places), 1, 1)
    poses[:, 0, 3] = torch.tensor(places)
    return Cameras(poses, 30.0, 30.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, camera_type=kind)


class Dataset:
    """Photos of one gray each."""

    cameras = cameras(-0.1, 0.0, 0.1)
    image_filenames = ("a.jpg", "b.jpg", "c.jpg")

    def get_image_float32(self, index: int) -> torch.Tensor:
        return torch.full((HEIGHT, WIDTH, 3), GRAYS[index])


class Wall:
    """A splat of one wall."""

    device = torch.device("cpu")
    training = True
    camera_optimizer: SimpleNamespace
    camera_of_photo: Callable[[Cameras, int], Cameras]

    def __init__(self) -> None:
        self.step = 100
        self.gauss_params = {"means": torch.zeros(1, 3)}
        self.rendered: list[float] = []

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, torch.Tensor]:
        assert not self.training
        self.rendered.append(round(float(camera.camera_to_worlds[0, 0, 3]), 3))
        plane = torch.ones(HEIGHT, WIDTH, 1)
        return {"rgb": plane.expand(-1, -1, 3) / 2, "depth": DEPTH * plane, "accumulation": plane}


def correct_cameras(splat: Wall, shift: float, mode: str = "SO3xR3") -> None:
    """Lets a splat place the cameras of its photos `shift` beside where they are given, as an optimizer learns to.

    Args:
        splat: changed in place.
        shift: along x.
        mode: of the camera optimizer.
    """

    def camera_of_photo(camera: Cameras, index: int) -> Cameras:
        assert torch.equal(camera.camera_to_worlds, Dataset.cameras[index : index + 1].camera_to_worlds)
        corrected = deepcopy(camera)
        corrected.camera_to_worlds[:, 0, 3] += shift
        return corrected

    splat.camera_optimizer = SimpleNamespace(config=SimpleNamespace(mode=mode))
    splat.camera_of_photo = camera_of_photo


class Recorder:
    """A fixer that returns the renders and remembers the references."""

    def __init__(self, takes_aligned_references: bool) -> None:
        self.takes_aligned_references = takes_aligned_references
        self.references: list[torch.Tensor] = []

    def clean(self, renders: list, references: list, cameras: list) -> list:
        self.references += references
        return renders


def make(
    takes: bool = True,
    splat: Wall | None = None,
    dataset: object = None,
    clears_unseen: bool = False,
    **options: Any,
) -> tuple[Recorder, RenderEnhancer]:
    """An enhancer with a fixer that returns renders, and the record of what it gets.

    Args:
        takes: whether the fixer takes aligned references.
        splat: the splat; None for a model that is none.
        dataset: the photos; None for `Dataset`.
        clears_unseen: of the enhancer.
        options: of `ReferenceConfig`, and `difix` with those of `DifixConfig`.
    """
    recorder = Recorder(takes)
    fixer = LazyFixer(DifixConfig(**options.pop("difix", {})), "cpu", recorder)  # type: ignore[arg-type]
    wall = None if splat is None else RenderedSplat(splat)
    return recorder, RenderEnhancer(
        fixer,
        dataset or Dataset(),  # type: ignore[arg-type]
        ReferenceConfig(**options),
        lambda: 1.0,
        splat=wall,
        clears_unseen=clears_unseen,
    )
