"""Running layers tile by tile on large images gives the same result without seams, in less memory."""

from __future__ import annotations

import pytest
import torch
from difix.tiny_network import make_tiny
from torch.utils._python_dispatch import TorchDispatchMode

from difix3d_ns.difix import tiling
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.tiling import TiledLayers
from difix3d_ns.difix.training.lora import add_lora
from difix3d_ns.fixing.stopping import FixStopped, stoppable


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 1000, 3000])
def tile_pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of one row, of some rows, and of half the image."""
    monkeypatch.setattr(tiling, "TILE_PIXELS", request.param)
    return request.param


class LargestConvolution(TorchDispatchMode):
    """Measures how many pixels of an activation a convolution reads at most, which bounds the memory it takes."""

    pixels = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.pixels = max(self.pixels, args[0].shape[-2] * args[0].shape[-1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_tiled_autoencoder_gives_the_same_result(tile_pixels: int, layout: torch.memory_format) -> None:
    vae = make_tiny().vae
    torch.nn.Module.to(vae, memory_format=layout)
    images = pictures(2, 104, 72) * 2 - 1
    images[:, :, :50] *= 0.1  # halves with different contrast, which would be normalised differently if seen alone
    posterior, skips = vae.encode_with_skips(images)
    tiled_posterior, tiled_skips = vae.encode_with_skips(images, tiled=True)
    torch.testing.assert_close(tiled_posterior.parameters, posterior.parameters, atol=1e-5, rtol=1e-5)
    for tiled, whole in zip(tiled_skips, skips, strict=True):
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=1e-5)
    latents = posterior.mode()
    whole = vae.decode_with_skips(latents, skips)
    torch.testing.assert_close(vae.decode_with_skips(latents, skips, tiled=True), whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 2, 2), (1, 1, 0)])
def test_a_convolution_by_tiles_gives_the_same_result(
    tile_pixels: int, layout: torch.memory_format, kernel: int, stride: int, padding: int
) -> None:
    convolution = torch.nn.Conv2d(3, 5, kernel, stride, padding).to(memory_format=layout)
    images = pictures(2, 43, 30)
    torch.testing.assert_close(TiledLayers().convolution(convolution, images), convolution(images))


class Convolutions(TorchDispatchMode):
    """Counts convolutions, and those whose weights are in channels-last layout and whose activation is not."""

    num_all, num_mixed = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.num_all += 1
            sample, weight = args[:2]
            mixed = sample.shape[1] > 1 and weight.stride(1) == 1 and sample.stride(1) != 1
            self.num_mixed += weight.shape[-1] > 1 and mixed
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_tiles_are_in_the_layout_of_channels_last_weights(tile_pixels: int) -> None:
    vae = make_tiny().vae
    torch.nn.Module.to(vae, memory_format=torch.channels_last)
    with Convolutions() as convolutions:
        posterior, skips = vae.encode_with_skips(pictures(1, 104, 72), tiled=True)
        image = vae.decode_with_skips(posterior.mode(), skips, tiled=True)
    assert convolutions.num_all > 20 and convolutions.num_mixed == 0
    assert all(skip.stride(1) == 1 for skip in (*skips, image))


@torch.no_grad()
def test_a_network_can_be_stopped_between_any_two_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE_PIXELS", 1000)
    vae = make_tiny().vae
    images = pictures(1, 104, 72)
    with Convolutions() as all_of_them:
        posterior, skips = vae.encode_with_skips(images, tiled=True)
        vae.decode_with_skips(posterior.mode(), skips, tiled=True)
    for last in range(1, all_of_them.num_all, 7):
        done = Convolutions()
        with done, pytest.raises(FixStopped), stoppable([vae], lambda last=last, done=done: done.num_all == last):
            posterior, skips = vae.encode_with_skips(images, tiled=True)
            vae.decode_with_skips(posterior.mode(), skips, tiled=True)
        assert done.num_all == last


@torch.no_grad()
def test_decoding_does_not_change_the_skips(tile_pixels: int) -> None:
    vae = make_tiny().vae
    images = pictures(1, 40, 24)
    first = vae.encode_with_skips(images, tiled=True)[1]
    kept = [skip.clone() for skip in first]
    vae.decode_with_skips(torch.zeros(1, 4, 5, 3), first, tiled=True)
    assert all(torch.equal(now, before) for now, before in zip(first, kept, strict=True))


def test_only_an_image_above_the_bound_is_tiled(monkeypatch: pytest.MonkeyPatch, tiny: DifixPipeline) -> None:
    monkeypatch.setattr(tiling, "TILE_PIXELS", 100)
    image, reference = pictures(1, 48, 40), pictures(1, 48, 40, seed=1)
    with LargestConvolution() as at_once:
        whole = tiny(image, reference, output_type="pt", max_pixels_per_batch=48 * 40).images
    tiny.reference_cache.clear()
    with LargestConvolution() as by_tiles:
        tiled = tiny(image, reference, output_type="pt", max_pixels_per_batch=48 * 40 - 1).images
    assert at_once.pixels >= 48 * 40
    assert by_tiles.pixels < 48 * 40 / 2
    assert (tiled - whole).abs().max() < 1e-5


def test_diffusers_own_switch_tiles_large_images_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE_PIXELS", 1)
    vae = make_tiny().vae
    vae.tile_sample_min_size = 32

    def is_tiled(height: int, width: int, tiled: bool = False) -> bool:
        with LargestConvolution() as largest:
            posterior, skips = vae.encode_with_skips(pictures(1, height, width), tiled=tiled)
            vae.decode_with_skips(posterior.mode(), skips, tiled=tiled)
        return largest.pixels < height * width

    with torch.no_grad():
        assert not is_tiled(64, 16)
        vae.enable_tiling()
        assert is_tiled(64, 16)
        assert not is_tiled(32, 32)
    assert not is_tiled(64, 16, tiled=True)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_decoder_with_a_separate_lora_gives_the_same_result_by_tiles(
    tile_pixels: int, layout: torch.memory_format
) -> None:
    vae = make_tiny().vae
    posterior, skips = vae.encode_with_skips(pictures(1, 104, 72) * 2 - 1)
    before = vae.decode_with_skips(posterior.mode(), skips)
    add_lora(vae.decoder, rank=2)
    for name, parameter in vae.decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    torch.nn.Module.to(vae, memory_format=layout)
    assert isinstance(vae._layers((104, 72), tiled=True), TiledLayers)
    with LargestConvolution() as at_once:
        whole = vae.decode_with_skips(posterior.mode(), skips)
    with LargestConvolution() as by_tiles:
        tiled = vae.decode_with_skips(posterior.mode(), skips, tiled=True)
    assert (whole - before).abs().max() > 0.05
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=1e-5)
    assert at_once.pixels >= 104 * 72 > 1.5 * by_tiles.pixels


def test_with_gradients_a_decoder_with_a_separate_lora_is_not_tiled() -> None:
    vae = make_tiny().vae
    add_lora(vae.decoder, rank=2)
    assert vae._layers((104, 72), tiled=True) is None


@torch.no_grad()
def test_tiling_does_not_make_half_precision_less_exact(tile_pixels: int) -> None:
    vae = make_tiny().vae
    images = pictures(1, 104, 72) * 2 - 1
    exact = vae.encode_with_skips(images)[0].mode()
    torch.nn.Module.to(vae, torch.bfloat16)
    whole, tiled = (vae.encode_with_skips(images.bfloat16(), tiled=each)[0].mode().float() for each in (False, True))
    assert (tiled - exact).abs().mean() < 1.5 * (whole - exact).abs().mean() + 1e-4
