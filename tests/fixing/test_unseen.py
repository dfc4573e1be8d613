"""When enhanced renders are cleared of what no photo shows: floaters, and guesses in wide areas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fixing.wall import HEIGHT, WIDTH, Dataset, Wall, cameras, correct_cameras, make
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.rasterization import rasterization
from difix3d_ns.splats.gaussians import initial_gaussians

RENDER = torch.rand((HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(0))
BESIDE = cameras(3.0)
"""A camera whose right two thirds no photo shows."""
SEEN, UNSEEN = slice(0, 4), slice(-8, None)
"""Columns that a photo shows, and columns that none shows."""


def is_blurred(image: torch.Tensor) -> bool:
    """Whether a render is blurred where no photo shows it. The rest is always as it was."""
    assert torch.equal(image[:, SEEN], RENDER[:, SEEN])
    return bool(image[:, UNSEEN].std() < 0.5 * RENDER[:, UNSEEN].std())


def test_what_no_photo_shows_is_blurred_only_if_it_is_asked_for() -> None:
    for asked in (True, False):
        _, enhancer = make(True, Wall(), clears_unseen=asked)
        assert enhancer.clears_unseen() is asked
        assert is_blurred(enhancer.enhance(RENDER, BESIDE)) is asked


def test_what_photos_show_stays() -> None:
    _, enhancer = make(True, Wall(), clears_unseen=True)
    assert torch.equal(enhancer.enhance(RENDER, cameras(0.02)), RENDER)


@pytest.mark.parametrize(
    ("takes", "options"),
    [(False, {}), (True, {"align": "none"}), (True, {"difix": {"use_reference": False}})],
)
def test_a_network_for_raw_photos_keeps_what_it_makes_up(takes: bool, options: dict) -> None:
    wall = Wall()
    _, enhancer = make(takes, wall, clears_unseen=True, **options)
    assert not enhancer.clears_unseen()
    assert torch.equal(enhancer.enhance(RENDER, BESIDE), RENDER)
    assert wall.rendered == []


def test_a_given_reference_leaves_the_render_alone() -> None:
    _, enhancer = make(True, Wall(), clears_unseen=True)
    assert torch.equal(enhancer.enhance_all([RENDER], [BESIDE], reference=RENDER)[0], RENDER)


def test_the_strength_also_weakens_the_blur() -> None:
    full, half, none = (
        make(True, Wall(), clears_unseen=True, difix={"strength": strength})[1].enhance(RENDER, BESIDE)
        for strength in (1.0, 0.5, 0.0)
    )
    torch.testing.assert_close(half, (full + RENDER) / 2)
    assert torch.equal(none, RENDER)


def test_the_network_in_use_decides() -> None:
    _, enhancer = make(True, Wall(), clears_unseen=True)
    other = make(False)[1].fixer
    assert torch.equal(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], fixer=other)[0], RENDER)
    assert is_blurred(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE])[0])


def test_surfaces_of_photos_are_rendered_again_only_when_the_splat_has_changed() -> None:
    wall = Wall()
    _, enhancer = make(True, wall, clears_unseen=True)
    outputs = [RenderedSplat(wall).render(BESIDE)]
    wall.rendered.clear()
    for _ in range(2):
        enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)
        assert wall.rendered == [-0.1, 0.0, 0.1]
    wall.step += 1
    enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)
    assert wall.rendered == 2 * [-0.1, 0.0, 0.1]


def test_photos_show_what_they_see_from_where_the_splat_has_corrected_their_cameras_to() -> None:
    wall = Wall()
    correct_cameras(wall, 3.0)
    _, enhancer = make(True, wall, clears_unseen=True)
    outputs = [RenderedSplat(wall).render(BESIDE)]
    wall.rendered.clear()
    assert torch.equal(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)[0], RENDER)
    assert wall.rendered == [2.9, 3.0, 3.1]
    wall.step += 1
    correct_cameras(wall, 0.0)
    assert is_blurred(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)[0])


def test_an_unreadable_mask_is_reported_and_all_of_its_photo_counts_as_valid(capsys: pytest.CaptureFixture) -> None:
    class Masked(Dataset):
        def mask(self, index: int) -> None:
            if index == 1:
                raise ValueError("the mask b.png cannot be read.")

    _, enhancer = make(True, Wall(), Masked(), clears_unseen=True)
    enhanced = enhancer.blur_unseen([RENDER] * 2, [RENDER] * 2, [BESIDE, cameras(0.02)])
    assert is_blurred(enhanced[0]) and torch.equal(enhanced[1], RENDER)
    assert " ".join(capsys.readouterr().out.split()).count("the mask b.png cannot be read") == 1


def test_a_camera_that_is_no_pinhole_is_not_blurred() -> None:
    _, enhancer = make(True, Wall(), clears_unseen=True)
    assert torch.equal(enhancer.enhance(RENDER, cameras(3.0, kind=CameraType.FISHEYE)), RENDER)


class FoggyWall(Wall):
    """A wall, and one Gaussian of black fog over views from the right, which no photo shows."""

    rasterization = staticmethod(rasterization)
    crop_box = None

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(floater_ratio=3.0)
        self.gauss_params = initial_gaussians(torch.tensor([[3.0, 0.0, -1.0]]), torch.zeros(1, 3), sh_degree=0)
        self.gauss_params["scales"].fill_(-1.0)
        self.gauss_params["opacities"].fill_(3.0)
        self.hidden: list[int] = []

    def outputs_without(self, hidden: torch.Tensor, camera: Cameras) -> dict[str, torch.Tensor]:
        assert not self.training
        self.hidden += hidden.nonzero().flatten().tolist()
        return {**self.get_outputs_for_camera(camera), "rgb": RENDER}


FOGGY = RENDER * 0.1


def test_fog_that_no_photo_shows_is_hidden_before_the_network_sees_the_render() -> None:
    wall = FoggyWall()
    _, enhancer = make(True, wall, clears_unseen=True)
    for _ in range(2):
        assert is_blurred(enhancer.enhance(FOGGY, BESIDE))
    assert wall.hidden == [0, 0] and wall.training
    half = make(True, FoggyWall(), clears_unseen=True, difix={"strength": 0.5})[1].enhance(FOGGY, BESIDE)
    torch.testing.assert_close(half[:, SEEN], (RENDER + FOGGY)[:, SEEN] / 2)


def test_fog_is_what_no_photo_shows_from_where_the_splat_has_corrected_its_camera_to() -> None:
    for mode, hidden in (("SO3xR3", []), ("off", [0])):
        wall = FoggyWall()
        correct_cameras(wall, 3.0, mode)
        make(True, wall, clears_unseen=True)[1].without_floaters([FOGGY], [BESIDE])
        assert wall.hidden == hidden


def test_a_view_without_fog_is_rendered_once() -> None:
    wall = FoggyWall()
    render, outputs = RENDER, [RenderedSplat(wall).render(cameras(0.02))]
    _, enhancer = make(True, wall, clears_unseen=True)
    assert enhancer.without_floaters([render], [cameras(0.02)], outputs) == ([render], outputs)
    assert wall.hidden == []


def test_only_frames_with_fog_are_replaced() -> None:
    _, enhancer = make(True, FoggyWall(), clears_unseen=True)
    renders, outputs = enhancer.without_floaters([FOGGY, FOGGY], [cameras(0.02), BESIDE])
    assert torch.equal(renders[0], FOGGY) and torch.equal(renders[1], RENDER)
    assert outputs is not None and len(outputs) == 2


def test_a_cropped_splat_and_a_ratio_of_zero_keep_their_fog() -> None:
    for change in ({"crop_box": object()}, {"config": SimpleNamespace(floater_ratio=0.0)}):
        wall = FoggyWall()
        for name, value in change.items():
            setattr(wall, name, value)
        _, enhancer = make(True, wall, clears_unseen=True)
        assert enhancer.without_floaters([FOGGY], [BESIDE])[0] == [FOGGY]
