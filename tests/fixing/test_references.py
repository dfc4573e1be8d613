"""The choice of the reference photo of a novel view."""

from __future__ import annotations

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, ring
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras
from torch.nn.functional import normalize

from difix3d_ns.cameras.generated_paths import looking_at
from difix3d_ns.cameras.poses import nearest_poses
from difix3d_ns.fixing import references
from difix3d_ns.fixing.references import ReferenceConfig, choose_references, seen_points, view_overlaps

UP = torch.tensor([0.0, 0.0, 1.0])


def ball(count: int = 6000) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussians around the origin, and their opacities."""
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(count, 3, generator=generator), torch.rand(count, generator=generator)


def views(poses: torch.Tensor) -> list[Cameras]:
    cameras = cameras_at(poses)
    return [cameras[i : i + 1] for i in range(len(poses))]


def looking_from(*centers: tuple[float, float, float], at: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    return looking_at(torch.tensor(centers, dtype=torch.float32), torch.tensor([at], dtype=torch.float32), UP)


@pytest.mark.parametrize("choice", ["pose", "overlap"])
def test_a_photo_is_the_reference_of_its_own_pose(choice) -> None:
    photos = ring(9, 0)
    found = choose_references(views(photos), cameras_at(photos), ReferenceConfig(choice=choice), 1.0, *ball())
    assert found == list(range(9))


def test_by_pose_the_nearest_photo_is_chosen_as_published() -> None:
    novel, photos = ring(20, 1), ring(9, 0)
    found = choose_references(views(novel), cameras_at(photos), ReferenceConfig(), 1.0, *ball())
    assert found == nearest_poses(novel, photos).tolist()


def test_by_overlap_a_photo_of_the_same_content_beats_a_nearer_one_of_other_content() -> None:
    novel = looking_from((2.0, 0.0, 0.0))
    looking_away = looking_at(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.8, 0.0]]), UP)
    same_content = looking_from((5.0, 0.0, 0.0))
    photos = cameras_at(torch.cat([looking_away, same_content]))
    by = {
        choice: choose_references(views(novel), photos, ReferenceConfig(choice=choice), 1.0, *ball())
        for choice in ("pose", "overlap")
    }
    assert by == {"pose": [0], "overlap": [1]}


def test_a_photo_from_the_other_side_has_no_overlap() -> None:
    photos = cameras_at(looking_from((-2.0, 0.0, 0.0), (2.0, 0.3, 0.0)))
    overlaps = view_overlaps(views(looking_from((2.0, 0.0, 0.0))), photos, torch.tensor([[0, 1]]), *ball())
    assert overlaps[0, 0] < 0.05 and overlaps[0, 1] > 0.9


def test_overlap_chooses_among_the_nearest_photos_only() -> None:
    novel = looking_from((2.0, 0.0, 0.0))
    away = looking_at(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.8, 0.0]]), UP)
    photos = cameras_at(torch.cat([away, looking_from((5.0, 0.0, 0.0))]))
    config = ReferenceConfig(choice="overlap", num_candidates=1)
    assert choose_references(views(novel), photos, config, 1.0, *ball()) == [None]


@pytest.mark.parametrize("choice", ["pose", "overlap"])
def test_a_photo_beyond_the_maximum_distance_is_never_the_reference(choice) -> None:
    novel = looking_from((2.0, 0.0, 0.0), (2.0, 0.05, 0.0))
    photos = cameras_at(looking_from((2.0, 0.1, 0.0)))
    choose = lambda limit, unit: choose_references(  # noqa: E731
        views(novel), photos, ReferenceConfig(choice=choice, max_distance=limit), unit, *ball()
    )
    assert choose(0.0, 1.0) == [0, 0]
    assert choose(0.1, 1.0) == [None, 0]
    assert choose(0.1, 10.0) == [0, 0]  # with a longer unit the same distance counts less


def test_a_view_that_sees_no_gaussians_has_no_reference_by_overlap() -> None:
    novel = views(looking_from((2.0, 0.0, 0.0), at=(9.0, 0.0, 0.0)))
    photos = cameras_at(ring(3, 0))
    assert choose_references(novel, photos, ReferenceConfig(choice="overlap"), 1.0, *ball()) == [None]
    nothing = torch.zeros(0, 3), torch.zeros(0)
    assert choose_references(novel, photos, ReferenceConfig(choice="overlap"), 1.0, *nothing) == [None]


def test_points_are_seen_if_inside_the_image_and_in_front_of_the_camera() -> None:
    camera = cameras_at(looking_from((2.0, 0.0, 0.0)))
    depth, half_width, half_height = 2.0, 2.0 * 24 / 40, 2.0 * 16 / 40
    at = [(0.0, 0.0), (0.99 * half_width, 0.0), (1.01 * half_width, 0.0), (0.0, 0.99 * half_height), (0.0, 2.0)]
    points = torch.tensor([(2.0 - depth, across, upward) for across, upward in at] + [(3.0, 0.0, 0.0)])
    assert seen_points(camera, points)[0].tolist() == [True, True, False, True, False, False]


def test_working_in_blocks_gives_the_same_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras, photos = views(ring(11, 1)), cameras_at(ring(7, 0))
    candidates = torch.arange(77).reshape(11, 7) % 7
    whole = view_overlaps(cameras, photos, candidates, *ball(500))
    assert whole.min() >= 0 and whole.max() <= 1 + 1e-5
    monkeypatch.setattr(references, "MAX_VALUES_AT_ONCE", 3 * 500)
    monkeypatch.setattr(references, "AT_ONCE", 2)
    assert torch.equal(view_overlaps(cameras, photos, candidates, *ball(500)), whole)


@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 200), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_overlaps_match_their_definition(num_views: int, num_photos: int, num_points: int, seed: int) -> None:
    novel, photos = ring(num_views, seed, jitter=0.4), ring(num_photos, seed + 1, jitter=0.4)
    points, weights = (values[:num_points] for values in ball())
    candidates = torch.randint(0, num_photos, (num_views, 3), generator=torch.Generator().manual_seed(seed))
    found = view_overlaps(views(novel), cameras_at(photos), candidates, points, weights)
    for view, camera in enumerate(views(novel)):
        seen = seen_points(camera, points)[0]
        for column, photo in enumerate(candidates[view].tolist()):
            both = seen & seen_points(cameras_at(photos)[photo : photo + 1], points)[0]
            to_points = (normalize(points - poses[:, 3], dim=-1) for poses in (novel[view], photos[photo]))
            alike = torch.linalg.vecdot(*to_points).clamp_min(0)
            share = (alike * weights)[both].sum() / weights[seen].sum().clamp_min(1e-12)
            assert float(found[view, column]) == pytest.approx(float(share), abs=1e-5)


def test_a_sample_of_many_gaussians_names_no_gaussian_that_does_not_exist() -> None:
    count = 20_000_000  # above 2^24, float32 rounds some whole numbers up
    means, opacities = torch.zeros(1, 3).expand(count, 3), torch.ones(1).expand(count)
    photos = looking_from((2.0, 0.0, 0.0), (0.0, 2.0, 0.0))
    config = ReferenceConfig(choice="overlap")
    assert choose_references(views(photos), cameras_at(photos), config, 1.0, means, opacities) == [0, 1]
