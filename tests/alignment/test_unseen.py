"""What no photo shows in renders, and its blur."""

from __future__ import annotations

import torch
from alignment.aligned_planes import TARGET, view_at

from difix3d_ns.alignment.unseen import LOOKUP_SIZE, blur_unseen, for_lookup, unseen
from difix3d_ns.alignment.views import AlignmentView, is_perspective

SIDE = 192
"""Length in pixels of the square renders that are blurred."""


def wall(left: float = 0.0, depth: float = 2.0, height: int = SIDE, width: int = SIDE) -> AlignmentView:
    """The view of a wall by a camera that is moved to the left by a share of what it shows."""
    intrinsics = torch.tensor([[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]])
    viewmat = torch.eye(4)
    viewmat[0, 3] = left * depth
    valid = torch.ones((height, width), dtype=torch.bool)
    return AlignmentView(
        torch.zeros(height, width, 3), valid, intrinsics, viewmat, torch.full((height, width), depth), ~valid
    )


def noise(seed: int = 0) -> torch.Tensor:
    """A render with structure everywhere."""
    return torch.rand((SIDE, SIDE, 3), generator=torch.Generator().manual_seed(seed))


def test_what_lies_outside_all_photos_is_unseen() -> None:
    assert not unseen(wall(), [wall()]).any()
    found = unseen(wall(), [wall(left=0.5)])
    assert not found[:, : SIDE // 2 - 1].any() and found[:, SIDE // 2 + 1 :].all()
    assert 0.49 < found.float().mean() < 0.51
    assert not unseen(wall(), [wall(left=0.5), wall(left=-0.5)]).any()
    assert unseen(wall(), []).all()


def test_what_a_photo_has_something_in_front_of_is_unseen() -> None:
    near = wall()
    near.depth[:, : SIDE // 2] = 1.0
    found = unseen(wall(), [near])
    assert found[:, : SIDE // 2].all() and not found[:, SIDE // 2 :].any()


def test_holes_have_no_surface_that_could_be_unseen() -> None:
    view = wall()
    view.valid[:10] = False
    found = unseen(view, [])
    assert not found[:10].any() and found[10:].all()


def test_masked_pixels_of_a_photo_show_nothing() -> None:
    photo = wall()
    photo.valid[:, :50] = False
    found = unseen(wall(), [photo])
    assert found[:, :50].all() and not found[:, 50:].any()


def test_surfaces_of_a_scene_of_known_depth_are_seen_by_its_photos() -> None:
    target = view_at(TARGET)
    assert unseen(target, [view_at((0.0, 0.0))]).float().mean() < 0.2
    assert unseen(target, [view_at((0.0, 0.0), depth_error=0.2)]).float().mean() > 0.8


def test_wide_unseen_areas_are_blurred_and_the_rest_stays() -> None:
    render, photo = noise(), wall(left=0.5)
    area = unseen(wall(), [photo])
    kept, fixed = blur_unseen(render, render, wall(), [photo])
    assert torch.equal(kept, fixed)
    inside, outside = area.clone(), ~area
    side = SIDE // 2
    inside[:, side - 30 : side + 30] = outside[:, side - 30 : side + 30] = False
    assert inside.any() and outside.any()
    assert torch.equal(fixed[outside], render[outside])
    assert fixed[inside].std() < 0.2 * render[inside].std()
    torch.testing.assert_close(fixed[inside].mean(), render[inside].mean(), atol=0.01, rtol=0)


def test_narrow_unseen_strips_stay_sharp() -> None:
    render, photo = noise(), wall()
    photo.valid[:, 90:96] = False
    assert unseen(wall(), [photo]).any()
    _, fixed = blur_unseen(render, render, wall(), [photo])
    assert torch.equal(fixed, render)


def test_what_the_network_has_changed_stays() -> None:
    render, network = noise(), noise(1)
    kept, fixed = blur_unseen(render, network, wall(), [])
    assert torch.equal(fixed, network) and torch.equal(kept, render)
    half = network.clone()
    half[:, : SIDE // 2] = render[:, : SIDE // 2]
    _, fixed = blur_unseen(render, half, wall(), [])
    assert torch.equal(fixed[:, -60:], half[:, -60:])
    assert not torch.equal(fixed[:, :60], half[:, :60])


def test_an_output_with_nan_is_left_to_vetting() -> None:
    render = noise()
    broken = render * float("nan")
    kept, fixed = blur_unseen(render, broken, wall(), [])
    assert fixed.isnan().all() and torch.equal(kept, render)


def test_surfaces_are_compared_at_fewer_pixels() -> None:
    large = wall(height=2 * LOOKUP_SIZE, width=4 * LOOKUP_SIZE)
    large.valid[:LOOKUP_SIZE] = False
    view = for_lookup(large)
    assert view.size == (LOOKUP_SIZE // 2, LOOKUP_SIZE)
    assert view.valid.float().mean() == 0.5
    assert not unseen(view, [for_lookup(wall())]).any()


def test_only_perspective_cameras_can_be_looked_up() -> None:
    from nerfstudio.cameras.cameras import Cameras, CameraType

    for kind in (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR):
        camera = Cameras(torch.eye(4)[None, :3], 5.0, 5.0, 5.0, 5.0, 10, 10, camera_type=kind)
        assert is_perspective(camera) == (kind == CameraType.PERSPECTIVE)
