"""How renders reach the fixer: in batches of limited size, with the configured settings, one thread at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from fixing.fixer_cases import MakeFixer, SmallMemory, renders

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.stopping import FixStopped


def test_a_batch_has_no_more_pixels_than_configured(make_fixer: MakeFixer) -> None:
    finished: list[int] = []
    fixer = make_fixer(max_pixels_per_batch=2 * 16 * 24)
    fixed = fixer.clean(renders(*[(16, 24)] * 5, (24, 16)), on_progress=finished.append)
    assert finished == [2, 2, 1, 1]
    assert [tuple(image.shape) for image in fixed] == [(16, 24, 3)] * 5 + [(24, 16, 3)]


def test_images_and_references_of_mixed_sizes_stay_in_order(make_fixer: MakeFixer) -> None:
    fixer = make_fixer()
    images, photos = renders((16, 24), (24, 16), (16, 24)), renders((16, 24), (16, 24), (8, 8))
    together = fixer.clean(images, photos)
    for image, photo, result in zip(images, photos, together, strict=True):
        assert (fixer.clean([image], [photo])[0] - result).abs().max() < 1e-5


def test_an_image_without_a_reference_is_fixed_among_others_with_one(make_fixer: MakeFixer) -> None:
    fixer = make_fixer()
    images, (photo, *_) = renders((16, 24), (16, 24), (16, 24)), renders((16, 24))
    references = [None, photo, None]
    for image, reference, result in zip(images, references, fixer.clean(images, references), strict=True):
        alone = fixer.clean([image], None if reference is None else [reference])[0]
        assert (alone - result).abs().max() < 1e-5


def test_references_are_not_used_if_configured_so(make_fixer: MakeFixer) -> None:
    images, photos = renders((16, 24)), renders((16, 24), (16, 24))[1:]
    without = make_fixer(use_reference=False).clean(images, photos)[0]
    assert torch.equal(without, make_fixer().clean(images)[0])
    assert not torch.equal(without, make_fixer().clean(images, photos)[0])


def test_a_broken_result_becomes_nan_on_request_and_spoils_no_other(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixer = make_fixer()
    images = renders((16, 24), (16, 24), (16, 24))
    expected = fixer.clean(images)
    decode = fixer.load().network.decode

    def decode_with_one_broken(latents: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        # The second image is recognised by its latents, alone and in a batch.
        result = decode(latents, *rest, **options)
        broken = (latents - second).abs().amax(dim=(1, 2, 3)) < 1e-4
        return torch.where(broken[:, None, None, None], float("nan"), result)

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        fixer.load().network, "decode", lambda latents, *rest: seen.append(latents) or decode(latents, *rest)
    )
    fixer.clean(images[1:2])
    (second,) = seen
    monkeypatch.setattr(fixer.load().network, "decode", decode_with_one_broken)
    with pytest.raises(DifixError, match="returned NaN"):
        fixer.clean(images)
    kept = fixer.clean(images, keep_broken=True)
    assert kept[1].isnan().all() and kept[1].shape == images[1].shape
    for index in (0, 2):
        assert (kept[index] - expected[index]).abs().max() < 1e-5
    assert "returned NaN in torch.float32: use bfloat16 or float32" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_batch_that_does_not_fit_into_memory_is_halved(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, error: Callable[[], RuntimeError]
) -> None:
    images, photos = renders(*[(16, 24)] * 5), renders(*[(16, 24)] * 5)[::-1]
    expected = make_fixer().clean(images, photos)
    memory = SmallMemory(monkeypatch, pixels=2 * 16 * 24, error=error)
    fixed = make_fixer().clean(images, photos)
    assert [size for size, _ in memory.batches] == [5, 2, 3, 1, 2]
    for image, wanted in zip(fixed, expected, strict=True):
        assert (image - wanted).abs().max() < 1e-5


def test_a_view_that_does_not_fit_into_memory_is_left_out_and_the_others_are_fixed(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = renders((16, 24), (40, 48), (16, 24))
    expected = make_fixer().clean(images)
    SmallMemory(monkeypatch, pixels=2 * 16 * 24)
    finished: list[int] = []
    kept = make_fixer().clean(images, on_progress=finished.append, keep_broken=True)
    assert kept[1].isnan().all() and kept[1].shape == images[1].shape
    assert all((kept[index] - expected[index]).abs().max() < 1e-5 for index in (0, 2))
    assert sum(finished) == 3
    assert "too full to clean an image of 48 x 40, even tile by tile" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DifixError, match="memory of cpu is too full to clean an image of 48 x 40"):
        make_fixer().clean(images)


@pytest.mark.parametrize(
    "message",
    ["GET was unable to find an engine to execute this computation", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nhint."],
)
def test_the_library_that_found_no_memory_is_quoted(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    SmallMemory(monkeypatch, pixels=100, error=lambda: RuntimeError(message))
    with pytest.raises(DifixError) as caught:
        make_fixer().clean(renders((16, 24)))
    sentence = str(caught.value)
    assert f"an image of 24 x 16, even tile by tile ({message.splitlines()[0]}): limit the Gaussians" in sentence
    assert "\n" not in sentence


class Brightening:
    """A fixer that adds 0.5 and knows whether two threads were in it at once."""

    def __init__(self) -> None:
        self.num_threads, self.most_threads = 0, 0

    def clean(
        self, images: list[torch.Tensor], references: list[torch.Tensor | None], cameras: object
    ) -> list[torch.Tensor]:
        self.num_threads += 1
        self.most_threads = max(self.most_threads, self.num_threads)
        time.sleep(0.02)
        self.num_threads -= 1
        return [(image + 0.5).clamp(0, 1) for image in images]


def test_strength_blends_render_and_result() -> None:
    (image,) = renders((16, 24))
    for strength in (0.0, 0.25, 1.0):
        fixer = LazyFixer(DifixConfig(strength=strength), "cpu", fixer=Brightening())
        expected = image.lerp((image + 0.5).clamp(0, 1), strength)
        torch.testing.assert_close(fixer.clean([image])[0], expected)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_the_range_is_refused(strength: float) -> None:
    with pytest.raises(DifixError, match=r"it must be in \[0, 1\]"):
        LazyFixer(DifixConfig(strength=strength), "cpu", fixer=Brightening()).clean(renders((16, 24)))


def test_threads_clean_in_turn() -> None:
    brightening = Brightening()
    fixer = LazyFixer(DifixConfig(max_pixels_per_batch=1), "cpu", fixer=brightening)
    threads = [threading.Thread(target=fixer.clean, args=(renders((4, 4), (4, 4)),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert brightening.most_threads == 1


def test_a_thread_that_waits_for_its_turn_can_stop() -> None:
    fixer = LazyFixer(DifixConfig(), "cpu", fixer=Brightening())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with fixer._in_turn(None):
            held.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    try:
        with pytest.raises(FixStopped):
            fixer.clean(renders((16, 24)), stop=lambda: True)
    finally:
        done.set()
        other.join()


def test_a_fixer_with_another_config_waits_for_this_one() -> None:
    (image,) = renders((16, 24))
    started, finish = threading.Event(), threading.Event()

    class Busy:
        def clean(self, renders, references, cameras):
            started.set()
            assert finish.wait(30)
            return renders

    fixer = LazyFixer(DifixConfig(), "cpu", fixer=Busy())
    other = fixer.with_config(DifixConfig(model="identity"))
    thread = threading.Thread(target=fixer.clean, args=([image],))
    thread.start()
    assert started.wait(30)
    with pytest.raises(FixStopped):
        other.clean([image], stop=lambda: True)
    finish.set()
    thread.join()
    assert torch.equal(other.clean([image])[0], image)
