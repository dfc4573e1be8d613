"""Difix as a fixer: offloading, compiling, tiles, and a device without room for the network."""

from __future__ import annotations

import pytest
import torch
from fixing.fixer_cases import MakeFixer, SmallMemory, renders

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer


def test_an_image_above_the_pixel_limit_gives_the_same_result_tile_by_tile(make_fixer: MakeFixer) -> None:
    images, photos = renders((40, 48)), renders((40, 48), (30, 30))[1:]
    (whole,), (tiled,) = (make_fixer(max_pixels_per_batch=bound).clean(images, photos) for bound in (40 * 48, 100))
    assert (whole - tiled).abs().max() < 1e-5


def test_an_image_that_does_not_fit_into_memory_is_cleaned_tile_by_tile(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = renders((16, 24))
    (expected,) = make_fixer().clean(images)
    memory = SmallMemory(monkeypatch, pixels=100, tiled_pixels=1000)
    (fixed,) = make_fixer().clean(images)
    assert memory.batches == [(1, False), (1, True)]
    assert (fixed - expected).abs().max() < 1e-5


def test_an_offloaded_network_is_on_its_device_while_it_cleans_and_in_cpu_memory_afterwards(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixer = make_fixer(offload=True)
    images = renders((16, 24), (24, 16))
    expected = make_fixer().clean(images)
    difix = fixer.load()
    places = {"vae": "cpu", "unet": "cpu"}
    while_cleaning: list[dict[str, str]] = []
    decode = difix.network.decode
    for name in places:
        part = getattr(difix.network, name)
        monkeypatch.setattr(part, "to", lambda device, name=name: places.update({name: str(device)}))
    monkeypatch.setattr(difix.network, "decode", lambda *a, **k: while_cleaning.append({**places}) or decode(*a, **k))
    monkeypatch.setattr(difix, "_device", torch.device("cuda"))  # the moves are only recorded
    monkeypatch.setattr(difix, "_batch", lambda images: torch.stack([image.permute(2, 0, 1) for image in images]))
    for image, wanted in zip(fixer.clean(images), expected, strict=True):
        assert torch.equal(image, wanted)
    assert while_cleaning == [{"vae": "cuda", "unet": "cuda"}] * 2
    assert places == {"vae": "cpu", "unet": "cpu"}
    with pytest.raises(DifixError):
        fixer.clean([torch.full((16, 24, 3), float("nan"))])
    assert places == {"vae": "cpu", "unet": "cpu"}


def test_a_network_is_compiled_once_and_gives_the_same_result(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[DifixPipeline] = []
    compile_network = DifixPipeline.compile

    def with_eager_backend(self: DifixPipeline) -> None:
        compiled.append(self)
        compile_network(self, backend="eager")  # traces the network without a compiler

    monkeypatch.setattr(DifixPipeline, "compile", with_eager_backend)
    images, photos = renders((16, 24)), renders((16, 24), (16, 24))[1:]
    fixer = make_fixer(compile=True)
    results = [fixer.clean(images, photos)[0] for _ in range(2)]
    assert len(compiled) == 1
    expected = make_fixer().clean(images, photos)[0]
    assert all((result - expected).abs().max() < 1e-5 for result in results)


def test_without_memory_for_the_network_nothing_is_fixed_and_training_goes_on(
    make_fixer: MakeFixer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fixer = make_fixer()
    with monkeypatch.context() as full:
        full.setattr(DifixPipeline, "to", no_room)
        assert fixer.clean(renders((16, 24)), keep_broken=True)[0].isnan().all()
        assert "too full for the network" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(DifixError, match="too full for the network"):
            fixer.clean(renders((16, 24)))
    assert fixer.clean(renders((16, 24)), keep_broken=True)[0].isfinite().all()


def test_the_embedded_network_works_in_float32_where_float16_is_asked_for() -> None:
    # Its activations exceed the range of float16, which ends in NaN.
    images = renders((32, 48))
    references = [torch.cat([1 - images[0], torch.ones(32, 48, 1)], dim=-1)]
    fixed = [
        LazyFixer(DifixConfig(model="embedded", dtype=dtype), "cpu").clean(images, references)[0]
        for dtype in ("float16", "float32")
    ]
    assert fixed[0].isfinite().all() and torch.equal(*fixed)
