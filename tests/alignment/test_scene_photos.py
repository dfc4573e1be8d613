"""The training photos of a model, as alignment keeps them."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.alignment import scene_photos
from difix3d_ns.alignment.scene_photos import ScenePhotos
from difix3d_ns.alignment.views import AlignmentView, alignment_view
from difix3d_ns.stereo.plane_sweep import DepthMap

HEIGHT, WIDTH = 24, 32
WALL = torch.ones(HEIGHT, WIDTH, 1)
OUTPUTS = {"depth": 4 * WALL, "accumulation": WALL}
RENDER = torch.full((HEIGHT, WIDTH, 3), 0.5)


def camera(place: float) -> Cameras:
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 0, 3] = place
    return Cameras(pose, 30.0, 30.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


class Photos:
    """Photos along a line in front of a wall; counts how often each is rendered."""

    def __init__(self, count: int) -> None:
        self.rendered: Counter[float] = Counter()
        cameras = [camera(0.1 * index) for index in range(count)]
        self.photos = ScenePhotos(lambda: cameras, lambda index: RENDER, self.render, "cpu")

    def render(self, camera: Cameras) -> dict[str, torch.Tensor]:
        self.rendered[round(float(camera.camera_to_worlds[0, 0, 3]), 3)] += 1
        return OUTPUTS


def test_a_render_far_along_the_line_gets_the_photos_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_photos, "MAX_CANDIDATES", 6)
    monkeypatch.setattr(scene_photos, "MAX_MATCHED", 0)
    made = Photos(20)
    made.photos.reference(RENDER, camera(1.72), OUTPUTS, state=0)
    assert set(made.rendered) <= {1.4, 1.5, 1.6, 1.7, 1.8, 1.9} and made.rendered[1.7] == 1


def test_photos_are_matched_once_and_rendered_once_for_each_state() -> None:
    made = Photos(3)
    made.photos.reference(RENDER, camera(0.05), OUTPUTS, state=0)
    matched_and_warped = made.rendered.total()
    made.photos.reference(RENDER, camera(0.15), OUTPUTS, state=0)
    assert made.rendered.total() == matched_and_warped == 6
    made.photos.reference(RENDER, camera(0.15), OUTPUTS, state=1)
    assert made.rendered.total() == 9


def test_the_memory_of_photos_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_photos, "MAX_PIXELS", 5 * HEIGHT * WIDTH)
    made = Photos(20)
    for place in (0.0, 1.0, 1.9):
        made.photos.reference(RENDER, camera(place), OUTPUTS, state=0)
    assert len(made.photos._views) == 5


def test_masked_pixels_stay_out_of_references_although_photos_match_there() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 40, 120, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, size=(64, 288), mode="bicubic")[0].clamp(0, 1).permute(1, 2, 0)
    wall = torch.ones(64, 96, 1)
    outputs = {"depth": 4 * wall, "accumulation": wall}
    left = wall > 0
    left[:, 48:] = False

    def camera_at(pixels: int) -> Cameras:
        pose = torch.eye(4)[None, :3].clone()
        pose[0, 0, 3] = pixels * 4 / 90
        return Cameras(pose, 90.0, 90.0, 48.0, 32.0, 96, 64)

    def seen_from(pixels: int) -> torch.Tensor:
        return texture[:, 96 + pixels : 192 + pixels]

    cameras = [camera_at(4 * index) for index in range(4)]
    shown = []
    for mask in (None, left):
        photos = ScenePhotos(
            lambda: cameras,
            lambda index: seen_from(4 * index),
            lambda camera: outputs,
            "cpu",
            lambda index, mask=mask: mask,
        )
        reference = photos.reference(seen_from(6), camera_at(6), outputs, state=0)
        assert reference is not None
        shown.append(reference.validity > 0)
    assert shown[0][:, 64:].float().mean() > 0.8 and shown[1][:, :32].float().mean() > 0.8
    assert not shown[1][:, 64:].any()


def test_without_another_photo_there_is_no_reference() -> None:
    assert Photos(1).photos.reference(RENDER, camera(0.0), OUTPUTS, state=0, without=0) is None


@pytest.mark.parametrize("size", [(12, 16), (48, 64), (25, 32)])
def test_photos_and_masks_are_scaled_to_the_size_of_their_cameras(size: tuple[int, int]) -> None:
    height, width = size
    photo = torch.full((height, width, 3), 0.7)
    mask = torch.ones(height, width, 1, dtype=torch.bool)
    mask[:, width // 2 :] = False
    photos = ScenePhotos(
        lambda: [camera(0.0), camera(0.1)], lambda index: photo, lambda camera: OUTPUTS, "cpu", lambda index: mask
    )
    reference = photos.reference(RENDER, camera(0.05), OUTPUTS, state=0)
    assert reference is not None
    rgba = reference.rgba()
    assert rgba.shape == (HEIGHT, WIDTH, 4)
    is_shown = rgba[..., 3] > 0
    assert is_shown[:, 2:14].all() and not is_shown[:, 17:].any()
    assert torch.allclose(rgba[is_shown][:, :3], torch.tensor(0.7), atol=1e-3)


def test_photos_in_full_size_are_not_kept_together_for_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 300, 400
    pose, wall = torch.eye(4)[None, :3], torch.ones(height, width, 1)
    cameras = [Cameras(pose, 400.0, 400.0, width / 2, height / 2, width, height)] * 8
    outputs = {"depth": 4 * wall, "accumulation": wall}
    photo = torch.full((height, width, 3), 0.5)
    views: list[weakref.ref] = []
    in_full_size: list[int] = []

    def view_of(*given: object) -> AlignmentView:
        view = alignment_view(*given)
        views.append(weakref.ref(view))
        return view

    def matches(photos: list[AlignmentView]) -> list[DepthMap]:
        in_full_size.append(sum(view() is not None for view in views))
        return []

    monkeypatch.setattr(scene_photos, "alignment_view", view_of)
    monkeypatch.setattr(scene_photos, "matches_between", matches)
    photos = ScenePhotos(lambda: cameras, lambda index: photo, lambda camera: outputs, "cpu")
    photos.reference(photo, cameras[0], outputs, state=0)
    assert in_full_size == [1]  # that of the render
