"""Large images tile by tile: the same result, without seams, in less memory."""

from __future__ import annotations

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix import tiling
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.vae import SkipAutoencoderKL


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 1000, 3000])
def tile_pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of one row, of some rows, of half the picture."""
    monkeypatch.setattr(tiling.TiledLayers.__init__, "__defaults__", (request.param,))
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_autoencoder_gives_the_same_tile_by_tile(tile_pixels: int, layout: torch.memory_format) -> None:
    vae = make_tiny().vae
    torch.nn.Module.to(vae, memory_format=layout)
    images = pictures(2, 104, 72) * 2 - 1
    images[:, :, :50] *= 0.1  # halves of other contrast, whose own normalisations would differ
    posterior, skips = vae.encode_with_skips(images)
    tiled_posterior, tiled_skips = vae.encode_with_skips(images, tiled=True)
    torch.testing.assert_close(tiled_posterior.parameters, posterior.parameters, atol=1e-5, rtol=1e-5)
    for tiled, whole in zip(tiled_skips, skips, strict=True):
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=1e-5)
    latents = posterior.mode()
    whole = vae.decode_with_skips(latents, skips)
    torch.testing.assert_close(vae.decode_with_skips(latents, skips, tiled=True), whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_the_encoder_leaves_the_skips_as_they_are(tile_pixels: int) -> None:
    vae = make_tiny().vae
    images = pictures(1, 40, 24)
    first = vae.encode_with_skips(images, tiled=True)[1]
    kept = [skip.clone() for skip in first]
    vae.decode_with_skips(torch.zeros(1, 4, 5, 3), first, tiled=True)
    assert all(torch.equal(now, before) for now, before in zip(first, kept, strict=True))


def test_an_image_above_the_bound_is_tiled_and_no_other(monkeypatch: pytest.MonkeyPatch, tiny: DifixPipeline) -> None:
    sizes = []
    convolve = tiling.TiledLayers._convolve

    def watched(self, convolution, sample, *args, **kwargs):
        sizes.append(tuple(sample.shape[-2:]))
        return convolve(self, convolution, sample, *args, **kwargs)

    monkeypatch.setattr(tiling.TiledLayers, "_convolve", watched)
    image, reference = pictures(1, 48, 40), pictures(1, 48, 40, seed=1)
    whole = tiny(image, reference, output_type="pt", max_pixels_per_batch=48 * 40).images
    assert not sizes
    tiny.reference_cache.clear()
    tiled = tiny(image, reference, output_type="pt", max_pixels_per_batch=48 * 40 - 1).images
    assert (48, 40) in sizes
    assert (tiled - whole).abs().max() < 1e-5


def test_diffusers_own_switch_tiles_too(tiny: DifixPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_tiny().vae
    assert isinstance(vae, SkipAutoencoderKL)
    vae.tile_sample_min_size = 32
    with torch.no_grad():
        assert vae._layers((64, 16), tiled=False) is None
        vae.enable_tiling()
        assert isinstance(vae._layers((64, 16), tiled=False), tiling.TiledLayers)
        assert vae._layers((32, 32), tiled=False) is None
    assert vae._layers((64, 16), tiled=True) is None  # with gradients


@torch.no_grad()
def test_half_precision_is_normalised_as_well_as_at_once(tile_pixels: int) -> None:
    vae = make_tiny().vae
    images = pictures(1, 104, 72) * 2 - 1
    exact = vae.encode_with_skips(images)[0].mode()
    torch.nn.Module.to(vae, torch.bfloat16)
    whole, tiled = (vae.encode_with_skips(images.bfloat16(), tiled=each)[0].mode().float() for each in (False, True))
    assert (tiled - exact).abs().mean() < 1.5 * (whole - exact).abs().mean() + 1e-4
