"""Points where one photo alone looks: on the plane of the others, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.stereo.seen_once import (
    MIN_POINTS,
    SQUARE,
    continued_depths,
    empty_squares,
    error_of_halves,
    points_seen_once,
)
from difix3d_ns.stereo.views import StereoView

HEIGHT, WIDTH, FOCAL = 60, 90, 80.0
NEAR = 5.0
"""Depth of the ground at the middle of the first photo, in scene units."""


def photo(x: float) -> StereoView:
    """A photo taken at (x, 0, 0) along z. Its red and green are the pixel's column and row."""
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    viewmat = torch.eye(4)
    viewmat[0, 3] = -x
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) / HEIGHT, torch.arange(WIDTH) / WIDTH, indexing="ij")
    colors = torch.stack([columns, rows, torch.zeros_like(rows)], dim=-1)
    return StereoView(colors, torch.ones(HEIGHT, WIDTH, dtype=torch.bool), intrinsics, viewmat)


def ground(xy: Float[Tensor, "*size 2"]) -> Float[Tensor, "*size"]:
    """Depths of a ground that falls away to the right and to the back."""
    return NEAR + 0.3 * xy[..., 0] + 0.2 * xy[..., 1]


def ground_points(from_x: float, to_x: float, number: int = 300) -> Float[Tensor, "number 3"]:
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand((number, 2), generator=generator)
    xy = torch.stack([from_x + (to_x - from_x) * xy[:, 0], 4 * xy[:, 1] - 2], dim=-1)
    return torch.cat([xy, ground(xy)[:, None]], dim=-1)


@pytest.fixture
def views() -> list[StereoView]:
    """The right half of the first photo's ground is the left half of the second's."""
    return [photo(0.0), photo(3.0)]


@pytest.fixture
def matched() -> Float[Tensor, "300 3"]:
    """Points where both photos look."""
    return ground_points(0.2, 2.8)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_ground_goes_on_where_one_photo_looks(views, matched) -> None:
    points, _ = points_seen_once(views, matched, seeded())
    assert ((points[:, 2] / ground(points[:, :2]) - 1).abs() < 0.02).all()
    inside = torch.stack([view.project(points)[2] for view in views])
    assert (inside.sum(dim=0) == 1).all()
    assert (inside.sum(dim=1) > 30).all(), "both photos have such parts"


def test_most_squares_that_one_photo_shows_get_a_point(views, matched) -> None:
    points, _ = points_seen_once(views, matched, seeded())
    pixels, _, _ = views[0].project(points)
    square = (pixels[pixels[:, 0] < 3 * SQUARE] / SQUARE).long()
    assert len(square.unique(dim=0)) == len(square) == 3 * HEIGHT / SQUARE


def test_points_have_the_colours_of_their_pixels(views, matched) -> None:
    points, colors = points_seen_once(views, matched, seeded())
    for view in views:
        pixels, _, inside = view.project(points)
        expected = view.colors[view.at(pixels[inside])]
        assert torch.allclose(colors[inside], expected, atol=1.5 / HEIGHT)


def test_the_same_seed_gives_the_same_points(views, matched) -> None:
    first, second = (points_seen_once(views, matched, seeded())[0] for _ in range(2))
    assert len(first) > 0 and torch.equal(first, second)


def test_objects_at_different_depths_are_not_continued(views, matched) -> None:
    scattered = matched * torch.linspace(0.8, 1.2, len(matched))[torch.randperm(len(matched), generator=seeded()), None]
    assert len(points_seen_once(views, scattered, seeded())[0]) == 0


def test_a_place_that_two_photos_show_gets_no_points(matched) -> None:
    """No point was matched there though two photos show it, so it is not on the plane or has no texture."""
    points, _ = points_seen_once([photo(0.0), photo(0.0)], matched, seeded())
    assert len(points) == 0


def test_empty_squares_that_several_photos_show_speak_against_a_plane() -> None:
    """A small object in the middle: its plane would go on at the outer edges too, which one photo alone shows."""
    views = [photo(0.0), photo(0.8)]
    everywhere, middle = ground_points(-2.0, 2.8, 2000), ground_points(0.0, 0.8)
    assert len(points_seen_once(views, everywhere[views[0].project(everywhere)[2]], seeded())[0]) > 10
    assert len(points_seen_once(views, middle, seeded())[0]) == 0


def test_few_points_say_nothing_about_the_surface(views, matched) -> None:
    assert len(points_seen_once(views, matched[: MIN_POINTS - 1], seeded())[0]) == 0
    assert len(points_seen_once(views, matched[:0], seeded())[0]) == 0


def test_masked_pixels_get_no_points(views, matched) -> None:
    valid = views[0].valid.clone()
    valid[:, :30] = False
    points, _ = points_seen_once([replace(views[0], valid=valid), views[1]], matched, seeded())
    pixels, _, inside = views[0].project(points)
    assert inside.any() and (pixels[inside, 0] >= 30).all()


def test_points_outside_of_a_photo_tell_how_its_ground_goes_on(views, matched) -> None:
    third = photo(6.5)
    assert not third.project(matched)[2].any()
    center = torch.tensor([[10.0, HEIGHT / 2]])
    depth, reliable = continued_depths(third, matched, center, seeded())
    point = third.points_at(center, depth)[0]
    assert reliable.all() and abs(float(point[2] / ground(point[:2])) - 1) < 0.02


def test_squares_beside_a_point_are_not_empty(views) -> None:
    point = views[0].points_at(torch.tensor([[45.0, 30.0]]), torch.tensor([5.0]))
    pixels = empty_squares(views[0], point, seeded())
    assert len(pixels) == (HEIGHT / SQUARE) * (WIDTH / SQUARE) - 9
    assert (pixels - torch.tensor([45.0, 30.0])).abs().amax(dim=-1).min() >= SQUARE
    assert len(empty_squares(views[0], point[:0], seeded())) == len(pixels) + 9


def test_the_plane_of_an_object_is_not_continued_into_its_background(views) -> None:
    """A flat object, and a few points far behind it: each half of the points has a plane of its own."""
    front = ground_points(0.2, 1.5, 150)
    behind = ground_points(1.5, 2.8, 150)
    behind = views[0].points_at(views[0].project(behind)[0], 1.3 * behind[:, 2])
    assert len(points_seen_once(views, torch.cat([front, front + torch.tensor([1.3, 0, 0.39])]), seeded())[0]) > 30
    assert len(points_seen_once(views, torch.cat([front, behind]), seeded())[0]) == 0


def test_halves_of_a_plane_predict_each_other(views, matched) -> None:
    pixels, depth, _ = views[0].project(matched)
    assert error_of_halves(pixels, 1 / depth) < 0.01
    steps = torch.where(pixels[:, 0] < pixels[:, 0].median(), depth, 1.2 * depth)
    assert 0.1 < error_of_halves(pixels, 1 / steps) < 0.3
