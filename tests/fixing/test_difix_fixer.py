"""How renders reach the network: in batches of bounded size, with what the config says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.fixing.difix_fixer import DifixConfig, DifixFixer

MakeFixer = Callable[..., DifixFixer]


@pytest.fixture
def make_fixer(tmp_path: Path) -> MakeFixer:
    """A fixer over a tiny network in a folder, with options."""
    make_tiny().save_pretrained(tmp_path / "tiny")
    return lambda **options: DifixFixer(DifixConfig(model=str(tmp_path / "tiny"), **options), "cpu")


def renders(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.rand(*size, 3, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)]


def test_batches_hold_no_more_pixels_than_configured(make_fixer: MakeFixer) -> None:
    finished: list[int] = []
    fixer = make_fixer(max_pixels_per_batch=2 * 16 * 24)
    fixed = fixer.fix(renders(*[(16, 24)] * 5, (24, 16)), on_progress=finished.append)
    assert finished == [2, 2, 1, 1]
    assert [tuple(image.shape) for image in fixed] == [(16, 24, 3)] * 5 + [(24, 16, 3)]


def test_an_image_above_the_bound_is_fixed_to_the_same_result(make_fixer: MakeFixer) -> None:
    images, photos = renders((40, 48)), renders((40, 48), (30, 30))[1:]
    (whole,), (tiled,) = (make_fixer(max_pixels_per_batch=bound).fix(images, photos) for bound in (40 * 48, 100))
    assert (whole - tiled).abs().max() < 1e-5


def test_every_size_and_reference_keeps_its_place(make_fixer: MakeFixer) -> None:
    fixer = make_fixer()
    images, photos = renders((16, 24), (24, 16), (16, 24)), renders((16, 24), (16, 24), (8, 8))
    together = fixer.fix(images, photos)
    for image, photo, result in zip(images, photos, together, strict=True):
        assert (fixer.fix([image], [photo])[0] - result).abs().max() < 1e-5


def test_an_image_without_a_reference_is_fixed_among_others_with_one(make_fixer: MakeFixer) -> None:
    fixer = make_fixer()
    images, (photo, *_) = renders((16, 24), (16, 24), (16, 24)), renders((16, 24))
    references = [None, photo, None]
    for image, reference, result in zip(images, references, fixer.fix(images, references), strict=True):
        alone = fixer.fix([image], None if reference is None else [reference])[0]
        assert (alone - result).abs().max() < 1e-5


def test_references_are_left_out_on_request(make_fixer: MakeFixer) -> None:
    images, photos = renders((16, 24)), renders((16, 24), (16, 24))[1:]
    without = make_fixer(use_reference=False).fix(images, photos)[0]
    assert torch.equal(without, make_fixer().fix(images)[0])
    assert not torch.equal(without, make_fixer().fix(images, photos)[0])


def test_an_offloaded_network_comes_back_for_every_fix(make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch) -> None:
    fixer = make_fixer(offload=True)
    expected = fixer.fix(renders((16, 24)))[0]
    moves: list[str] = []
    for part in (fixer.network.vae, fixer.network.unet):
        monkeypatch.setattr(part, "to", lambda device: moves.append(str(device)))
    fixer.device = torch.device("cuda")  # the moves alone are watched: nothing is computed there
    monkeypatch.setattr(fixer, "_batch", lambda images: torch.stack([image.permute(2, 0, 1) for image in images]))
    assert torch.equal(fixer.fix(renders((16, 24)))[0], expected)
    assert moves == ["cuda", "cuda", "cpu", "cpu"]
    with pytest.raises(DifixError):
        fixer.fix([torch.full((16, 24, 3), float("nan"))])
    assert moves[4:] == ["cuda", "cuda", "cpu", "cpu"]


def test_a_compiled_network_is_compiled_once_and_gives_the_same(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[DifixPipeline] = []
    compile_network = DifixPipeline.compile

    def with_eager_backend(self: DifixPipeline) -> None:
        compiled.append(self)
        compile_network(self, backend="eager")  # traces, and needs no compiler

    monkeypatch.setattr(DifixPipeline, "compile", with_eager_backend)
    images, photos = renders((16, 24)), renders((16, 24), (16, 24))[1:]
    fixer = make_fixer(compile=True)
    results = [fixer.fix(images, photos)[0] for _ in range(2)]
    assert len(compiled) == 1
    expected = make_fixer().fix(images, photos)[0]
    assert all((result - expected).abs().max() < 1e-5 for result in results)


def test_a_broken_result_stands_as_nan_on_request_and_spoils_no_other(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixer = make_fixer()
    images = renders((16, 24), (16, 24), (16, 24))
    expected = fixer.fix(images)
    decode = fixer.network.decode

    def decode_with_one_broken(latents: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        # The second image is known by its latents, alone and in a batch.
        result = decode(latents, *rest, **options)
        broken = (latents - second).abs().amax(dim=(1, 2, 3)) < 1e-4
        return torch.where(broken[:, None, None, None], float("nan"), result)

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(fixer.network, "decode", lambda latents, *rest: seen.append(latents) or decode(latents, *rest))
    fixer.fix(images[1:2])
    (second,) = seen
    monkeypatch.setattr(fixer.network, "decode", decode_with_one_broken)
    with pytest.raises(DifixError, match="returned NaN"):
        fixer.fix(images)
    kept = fixer.fix(images, keep_broken=True)
    assert kept[1].isnan().all() and kept[1].shape == images[1].shape
    for index in (0, 2):
        assert (kept[index] - expected[index]).abs().max() < 1e-5
    assert "returned NaN in torch.float32: use bfloat16 or float32" in " ".join(capsys.readouterr().out.split())


class Memory:
    """A memory that holds so many pixels: the network runs out of it where more come together, or come untiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pixels: int, tiled_pixels: int | None = None) -> None:
        self.batches: list[tuple[int, bool]] = []
        denoise = DifixPipeline.denoise

        def denoise_if_it_fits(network: DifixPipeline, images: torch.Tensor, **options) -> torch.Tensor:
            num_images, _, _, height, width = images.shape
            tiled = options["tiled"]
            self.batches.append((num_images, tiled))
            room = tiled_pixels if tiled and tiled_pixels is not None else pixels
            if num_images * height * width > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return denoise(network, images, **options)

        monkeypatch.setattr(DifixPipeline, "denoise", denoise_if_it_fits)


def test_a_batch_that_does_not_fit_into_the_memory_is_halved(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, photos = renders(*[(16, 24)] * 5), renders(*[(16, 24)] * 5)[::-1]
    expected = make_fixer().fix(images, photos)
    memory = Memory(monkeypatch, pixels=2 * 16 * 24)
    fixed = make_fixer().fix(images, photos)
    assert [size for size, _ in memory.batches] == [5, 2, 3, 1, 2]
    for image, wanted in zip(fixed, expected, strict=True):
        assert (image - wanted).abs().max() < 1e-5


def test_an_image_that_does_not_fit_alone_goes_tile_by_tile(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = renders((16, 24))
    (expected,) = make_fixer().fix(images)
    memory = Memory(monkeypatch, pixels=100, tiled_pixels=1000)
    (fixed,) = make_fixer().fix(images)
    assert memory.batches == [(1, False), (1, True)]
    assert (fixed - expected).abs().max() < 1e-5


def test_a_view_without_room_is_left_out_and_the_others_are_fixed(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = renders((16, 24), (40, 48), (16, 24))
    expected = make_fixer().fix(images)
    Memory(monkeypatch, pixels=2 * 16 * 24)
    finished: list[int] = []
    kept = make_fixer().fix(images, on_progress=finished.append, keep_broken=True)
    assert kept[1].isnan().all() and kept[1].shape == images[1].shape
    assert all((kept[index] - expected[index]).abs().max() < 1e-5 for index in (0, 2))
    assert sum(finished) == 3
    assert "too full to clean an image of 48 x 40, even tile by tile" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DifixError, match="memory of cpu is too full to clean an image of 48 x 40"):
        make_fixer().fix(images)


def test_without_room_for_the_network_nothing_is_fixed_and_training_goes_on(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fixer = make_fixer()
    with monkeypatch.context() as full:
        full.setattr(DifixPipeline, "to", no_room)
        assert fixer.fix(renders((16, 24)), keep_broken=True)[0].isnan().all()
        assert "too full for the network" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(DifixError, match="too full for the network"):
            fixer.fix(renders((16, 24)))
    assert fixer.fix(renders((16, 24)), keep_broken=True)[0].isfinite().all()
