"""When renders get aligned references, and what the fixer then gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fixing.fixer_cases import MakeFixer, renders
from fixing.wall import GRAYS, HEIGHT, WIDTH, Dataset, Wall, cameras, make
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer

RENDER, CAMERA = torch.full((HEIGHT, WIDTH, 3), 0.5), cameras(0.02)


@pytest.mark.parametrize(
    ("align", "takes", "channels"), [("auto", True, 4), ("auto", False, 3), ("none", True, 3), ("depth", False, 4)]
)
def test_references_are_aligned_for_a_network_trained_with_them_or_on_request(
    align: str, takes: bool, channels: int
) -> None:
    recorder, enhancer = make(takes, Wall(), align=align)
    enhancer.enhance(RENDER, CAMERA)
    assert [reference.shape for reference in recorder.references] == [(HEIGHT, WIDTH, channels)]


def test_raw_references_render_nothing() -> None:
    wall = Wall()
    make(False, wall)[1].enhance(RENDER, CAMERA)
    assert wall.rendered == []


def test_without_references_nothing_is_aligned() -> None:
    wall = Wall()
    recorder, enhancer = make(True, wall, difix={"use_reference": False})
    enhancer.enhance(RENDER, CAMERA)
    assert recorder.references == [None] and wall.rendered == []


def test_a_model_that_is_no_splat_keeps_raw_references_unless_alignment_is_asked_for() -> None:
    recorder, enhancer = make(True)
    enhancer.enhance(RENDER, CAMERA)
    assert recorder.references[0].shape[-1] == 3
    with pytest.raises(Difix3DError, match="by the depth of a splat"):
        make(True, align="depth")


def test_photos_are_rendered_again_only_when_the_model_has_changed() -> None:
    wall = Wall()
    _, enhancer = make(True, wall)
    outputs = RenderedSplat(wall).render(CAMERA)
    enhancer.enhance(RENDER, CAMERA, outputs)
    count = len(wall.rendered)
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert len(wall.rendered) == count
    wall.step += 1
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert len(wall.rendered) == count + 3
    assert wall.training


def test_a_render_without_its_outputs_is_rendered_again() -> None:
    wall = Wall()
    make(True, wall)[1].enhance(RENDER, CAMERA)
    assert wall.rendered[0] == pytest.approx(0.02)


def test_the_photo_of_the_render_itself_is_left_out_on_request() -> None:
    _, enhancer = make(True, Wall())
    for own in (0, 2):
        (reference,) = enhancer.aligned_references([RENDER], [Dataset.cameras[own : own + 1]], without=[own])
        shown = reference[..., :3][reference[..., 3] > 0]
        assert len(shown) > 0 and (shown - GRAYS[own]).abs().min() > 0.05


def test_a_camera_that_is_no_pinhole_gets_no_aligned_reference() -> None:
    _, enhancer = make(True, Wall())
    spherical = cameras(0.0, kind=CameraType.EQUIRECTANGULAR)
    assert enhancer.aligned_references([RENDER], [spherical]) == [None]


def test_missing_photos_are_reported_once_and_their_frames_get_no_reference(capsys: pytest.CaptureFixture) -> None:
    class Missing(Dataset):
        def get_image_float32(self, index: int) -> torch.Tensor:
            raise FileNotFoundError(2, "No such file", self.image_filenames[index])

    recorder, enhancer = make(True, Wall(), Missing())
    enhancer.enhance_all([RENDER, RENDER], [CAMERA, CAMERA])
    assert recorder.references == [None, None]
    assert " ".join(capsys.readouterr().out.split()).count("enhanced without a reference") == 1


def test_raw_and_aligned_references_never_share_a_batch() -> None:
    batches: list[list[int]] = []

    def clean(renders: list, references: list, cameras: list) -> list:
        batches.append([reference.shape[-1] for reference in references])
        return renders

    raw, aligned = torch.rand(HEIGHT, WIDTH, 3), torch.rand(HEIGHT, WIDTH, 4)
    LazyFixer(DifixConfig(), "cpu", SimpleNamespace(clean=clean)).clean([RENDER] * 4, [raw, aligned, raw, aligned])  # type: ignore[arg-type]
    assert sorted(batches) == [[3, 3], [4, 4]]


def test_a_network_that_knows_no_aligned_references_gets_their_colours(make_fixer: MakeFixer) -> None:
    images, photos = renders((16, 24)), renders((16, 24), (16, 24))[1:]
    aligned = [torch.cat([photo, torch.rand(16, 24, 1)], dim=-1) for photo in photos]
    fixer = make_fixer()
    assert not fixer.takes_aligned_references()
    assert torch.equal(fixer.clean(images, aligned)[0], fixer.clean(images, photos)[0])
