"""When renders get aligned references, and what the fixer then gets."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from fixing.fixer_cases import MakeFixer, renders
from fixing.wall import GRAYS, HEIGHT, WIDTH, Dataset, Wall, cameras, correct_cameras, make
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.difix.errors import DifixMemoryError
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


class Missing(Dataset):
    """Photos of which some are missing."""

    def __init__(self, *missing: int) -> None:
        self.missing = missing

    def get_image_float32(self, index: int) -> torch.Tensor:
        if index in self.missing:
            raise FileNotFoundError(2, "No such file", self.image_filenames[index])
        return super().get_image_float32(index)


def test_one_missing_photo_is_reported_once_and_the_others_make_the_references(
    capsys: pytest.CaptureFixture,
) -> None:
    class TheOthers(Dataset):
        cameras = cameras(-0.1, 0.1)

        def get_image_float32(self, index: int) -> torch.Tensor:
            return super().get_image_float32(2 * index)

    renders, views = [RENDER, RENDER], [CAMERA, cameras(-0.02)]
    found, expected = (make(True, Wall(), dataset)[1] for dataset in (Missing(1), TheOthers()))
    references = found.aligned_references(renders, views)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count("cannot be read") == 1 and "the training photo b.jpg cannot be read" in output
    for reference, wanted in zip(references, expected.aligned_references(renders, views), strict=True):
        assert torch.equal(reference, wanted) and (reference[..., 3] > 0).any()


def test_missing_photos_are_reported_once_and_their_frames_get_no_reference(capsys: pytest.CaptureFixture) -> None:
    recorder, enhancer = make(True, Wall(), Missing(0, 1, 2))
    enhancer.enhance_all([RENDER, RENDER], [CAMERA, CAMERA])
    assert recorder.references == [None, None]
    assert " ".join(capsys.readouterr().out.split()).count("enhanced without a reference") == 1


class Failing(Wall):
    """A splat whose renders fail, while `error` makes an error; the first `rendered` of them do not.

    A render fails the test if what an earlier one computed before its error is still in memory.
    """

    def __init__(self, error: Callable[[], Exception] | None, rendered: int = 0) -> None:
        super().__init__()
        self.error, self.room = error, rendered
        self.left_behind: list[weakref.ref[torch.Tensor]] = []

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, torch.Tensor]:
        assert not any(left() is not None for left in self.left_behind), "a failed render is still in memory"
        outputs = super().get_outputs_for_camera(camera)
        if self.error is not None and len(self.rendered) > self.room:
            self.left_behind.append(weakref.ref(outputs["depth"]))
            raise self.error()
        return outputs


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("CUDA out of memory"),
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: DifixMemoryError("CUDA out of memory."),
    ],
)
@pytest.mark.parametrize("rendered", [0, 2])
def test_a_full_memory_leaves_frames_without_reference_until_there_is_room_again(
    capsys: pytest.CaptureFixture, error: Callable[[], Exception], rendered: int
) -> None:
    wall = Failing(error, rendered)
    recorder, enhancer = make(True, wall)
    results = enhancer.enhance_all([RENDER, RENDER], [CAMERA, CAMERA])
    assert recorder.references == [None, None] and all(torch.equal(result, RENDER) for result in results)
    assert wall.training
    output = " ".join(capsys.readouterr().out.split())
    sentence = "Difix: the memory is too full to align reference photos (CUDA out of memory): frames get none."
    assert output == sentence
    wall.error = None
    enhancer.enhance(RENDER, CAMERA)
    assert recorder.references[2].shape == (HEIGHT, WIDTH, 4) and (recorder.references[2][..., 3] > 0).any()


def test_any_other_error_of_a_render_is_raised(capsys: pytest.CaptureFixture) -> None:
    wall = Failing(lambda: RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        make(True, wall)[1].enhance(RENDER, CAMERA)
    assert wall.training and not capsys.readouterr().out


def test_photos_are_rendered_where_the_model_has_corrected_their_cameras_to() -> None:
    wall = Wall()
    correct_cameras(wall, 0.5)
    _, enhancer = make(True, wall)
    outputs = RenderedSplat(wall).render(CAMERA)
    wall.rendered.clear()
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert {*wall.rendered} == {0.4, 0.5, 0.6}
    wall.rendered.clear()
    wall.step += 1
    correct_cameras(wall, 0.7)
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert sorted(wall.rendered) == [0.6, 0.7, 0.8]


def test_photos_of_a_model_that_corrects_no_cameras_are_rendered_where_they_are_given() -> None:
    wall = Wall()
    correct_cameras(wall, 0.5, mode="off")
    make(True, wall)[1].enhance(RENDER, CAMERA)
    assert {*wall.rendered} == {0.02, -0.1, 0.0, 0.1}


def test_a_reference_comes_from_the_photos_that_see_the_render_after_the_correction() -> None:
    # Without the correction, no photo sees what a camera this far aside shows.
    found = []
    for mode in ("SO3xR3", "off"):
        wall = Wall()
        correct_cameras(wall, 9.0, mode)
        recorder, enhancer = make(True, wall)
        enhancer.enhance(RENDER, cameras(9.02))
        found.append(bool((recorder.references[0][..., 3] > 0).any()))
    assert found == [True, False]


def test_freed_photos_are_prepared_again_for_the_next_reference() -> None:
    wall = Wall()
    recorder, enhancer = make(True, wall)
    enhancer.free_memory()  # with nothing to free
    outputs = RenderedSplat(wall).render(CAMERA)
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert enhancer._aligner is not None
    kept = [weakref.ref(view.colors) for view in enhancer._aligner._photos._views.values()]
    assert len(kept) == 3
    enhancer.free_memory()
    assert not any(colors() is not None for colors in kept)
    wall.rendered.clear()
    enhancer.enhance(RENDER, CAMERA, outputs)
    assert sorted(wall.rendered) == [-0.1, 0.0, 0.1]
    assert torch.equal(*recorder.references)


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
