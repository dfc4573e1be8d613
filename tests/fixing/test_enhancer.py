"""Frames of a run are cleaned with the photos near their cameras."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, ring
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig

TRAIN_CAMERAS = cameras_at(ring(3, 1))


class Recorder:
    """Replaces the network: returns the reference's mean colour, or the render if there is no reference."""

    def __init__(self, **options) -> None:
        self.config = DifixConfig(**options)
        self.calls: list[list] = []

    def clean(
        self, renders: Sequence[torch.Tensor], references: Sequence[torch.Tensor | None], cameras: object
    ) -> list[torch.Tensor]:
        self.calls.append(list(references))
        return [r if p is None else p.mean() * torch.ones_like(r) for r, p in zip(renders, references, strict=True)]


class Dataset:
    """Photos of one uniform grey each."""

    cameras = TRAIN_CAMERAS
    image_filenames = ("a.jpg", "b.jpg", "c.jpg")

    def __init__(self) -> None:
        self.read: list[int] = []

    def get_image_float32(self, index: int) -> torch.Tensor:
        self.read.append(index)
        return torch.full((4, 5, 3), 0.1 * (index + 1))


def make(recorder: Recorder, dataset: Dataset, **options) -> RenderEnhancer:
    return RenderEnhancer(recorder, dataset, ReferenceConfig(**options), lambda: 1.0)  # type: ignore[arg-type]


def frames(*indices: int) -> tuple[list[torch.Tensor], list[Cameras]]:
    return [torch.zeros(2, 3, 3) for _ in indices], [TRAIN_CAMERAS[i : i + 1] for i in indices]


def test_every_frame_gets_the_photo_nearest_to_its_camera_in_one_batch() -> None:
    recorder, dataset = Recorder(), Dataset()
    images = make(recorder, dataset).enhance_all(*frames(2, 0, 2))
    assert [round(float(image.mean()), 3) for image in images] == [0.3, 0.1, 0.3]
    assert len(recorder.calls) == 1


def test_a_photo_that_frames_share_is_read_once() -> None:
    dataset = Dataset()
    enhancer = make(Recorder(), dataset)
    enhancer.enhance_all(*frames(1, 1))
    enhancer.enhance_all(*frames(1, 2))
    assert sorted(dataset.read) == [1, 2]


def test_without_references_no_photo_is_read() -> None:
    dataset = Dataset()
    make(Recorder(use_reference=False), dataset).enhance_all(*frames(0, 1))
    assert dataset.read == []


def test_a_given_reference_replaces_the_photos() -> None:
    recorder, dataset = Recorder(), Dataset()
    given = torch.full((2, 3, 3), 0.7)
    images = make(recorder, dataset).enhance_all(*frames(0, 2), given)
    assert [round(float(image.mean()), 3) for image in images] == [0.7, 0.7]
    assert dataset.read == []


def test_missing_photos_are_reported_once_and_their_frames_get_no_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    dataset, recorder = Dataset(), Recorder()

    def missing(index: int) -> torch.Tensor:
        raise FileNotFoundError(2, "No such file", dataset.image_filenames[index])

    monkeypatch.setattr(dataset, "get_image_float32", missing)
    enhancer = make(recorder, dataset)
    enhancer.enhance_all(*frames(0, 1))
    enhancer.enhance_all(*frames(2))
    assert recorder.calls == [[None, None], [None]]
    assert " ".join(capsys.readouterr().out.split()).count("enhanced without a reference") == 1


def test_overlap_without_gaussians_is_refused() -> None:
    with pytest.raises(Difix3DError, match="choose them by pose"):
        make(Recorder(), Dataset(), choice="overlap")
