"""Aligned references of renders of a scene of known depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from alignment.aligned_planes import TARGET, blurred_render, photos, view_at
from stereo.planes_scene import HALF, SQUARE
from torch import Tensor

from difix3d_ns.alignment.config import AlignmentConfig
from difix3d_ns.alignment.reference import AlignedReference, aligned_reference
from difix3d_ns.alignment.views import photos_to_warp


def error(reference: AlignedReference, sharp: Tensor) -> float:
    """Mean error of the pixels that photos show."""
    return float((reference.rgb - sharp).abs().mean(dim=-1)[reference.validity > 0.1].mean())


def test_photos_lie_where_a_blurred_render_shows_the_same() -> None:
    render, sharp = blurred_render()
    reference = aligned_reference(render, photos())
    blur = float((render.colors - sharp).abs().mean())
    assert error(reference, sharp) < 0.5 * blur
    assert (reference.validity > 0.1).float().mean() > 0.8
    assert reference.agreement[reference.validity > 0.1].mean() > 0.6


@pytest.mark.parametrize("depth_error", [-0.06, 0.06])
def test_a_wrong_depth_is_moved_to_where_the_photos_agree(depth_error: float) -> None:
    render, sharp = blurred_render(depth_error)
    as_rendered = replace(AlignmentConfig(), num_hypotheses=1, depth_tolerance=0.1)
    corrected, moved = aligned_reference(render, photos()), aligned_reference(render, photos(), as_rendered)
    assert error(corrected, sharp) < 0.7 * error(moved, sharp)


def test_what_the_square_hides_from_a_photo_is_not_valid() -> None:
    render = view_at((1.3, 0.0))
    only = [view_at((-1.3, 0.0))]
    reference = aligned_reference(render, only)
    # Beside the square's right edge the photo shows the square, and the target the wall behind it.
    points = render.points(render.depth)
    hidden = (render.depth > SQUARE) & (points[..., 0] > -HALF) & (points[..., 1].abs() < HALF)
    pixels, _, inside = only[0].project(points)
    row, column = only[0].at(pixels)
    hidden &= inside & (only[0].depth[row, column] < render.depth - 1)
    assert hidden.sum() > 20
    assert (reference.validity[hidden] > 0).float().mean() < 0.05


def test_photos_of_other_colours_disagree() -> None:
    render, _ = blurred_render()
    three = photos()
    inverted = [three[0], three[1], replace(three[2], colors=1 - three[2].colors)]
    alike, unlike = aligned_reference(render, three), aligned_reference(render, inverted)
    assert unlike.agreement.mean() < alike.agreement.mean() - 0.1


def test_where_no_photo_shows_anything_the_reference_is_the_render() -> None:
    render, _ = blurred_render()
    turned = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    behind = [replace(photo, viewmat=turned @ photo.viewmat) for photo in photos()]
    for photos_of_scene in (behind, []):
        reference = aligned_reference(render, photos_of_scene)
        assert torch.equal(reference.rgb, render.colors)
        assert torch.equal(reference.rgba()[..., 3], torch.zeros(render.size))


def test_a_render_without_known_depth_gets_no_reference() -> None:
    render, _ = blurred_render()
    empty = replace(render, valid=torch.zeros_like(render.valid))
    assert (aligned_reference(empty, photos()).validity == 0).all()


def test_photos_of_other_sizes_are_warped_too() -> None:
    render, sharp = blurred_render()
    reference = aligned_reference(render, photos(size=(72, 100), focal=95.0))
    assert reference.rgb.shape == render.colors.shape
    assert error(reference, sharp) < 0.5 * float((render.colors - sharp).abs().mean())


def test_the_photo_from_the_nearest_direction_is_chosen_first() -> None:
    render = view_at(TARGET)
    far, near = view_at((-2.0, 0.0)), view_at((0.2, 0.2))
    assert photos_to_warp(render, [far, near], most=1) == [1]


def test_a_picture_in_rgba_is_in_range() -> None:
    render, _ = blurred_render()
    rgba = aligned_reference(render, photos()).rgba()
    assert rgba.shape == (*render.size, 4)
    assert float(rgba.min()) >= 0 and float(rgba.max()) <= 1
