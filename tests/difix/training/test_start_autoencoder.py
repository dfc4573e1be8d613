"""The initial autoencoder of a small network returns its input, and its latents hold colours and detail."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from difix.tiny_network import make_tiny

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.start_autoencoder import start_autoencoder
from difix3d_ns.difix.training.start_unet import start_unet


@pytest.fixture(scope="module")
def started() -> DifixPipeline:
    torch.manual_seed(0)
    pipeline = build_difix(DifixArchitecture.mini())
    start_unet(pipeline.unet)
    start_autoencoder(pipeline)
    return pipeline


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.2), (0.8, 1.0)])
def test_the_small_network_starts_as_identity_on_pictures_of_any_brightness(
    started: DifixPipeline, low: float, high: float
) -> None:
    image, reference = low + (high - low) * torch.rand(1, 3, 70, 96), torch.rand(1, 3, 70, 96)
    for result in (started(image, output_type="pt"), started(image, reference, output_type="pt")):
        assert float((result.images - image).abs().max()) < 0.02


def test_latents_are_the_colours_and_the_detail_of_their_cells(started: DifixPipeline) -> None:
    torch.manual_seed(1)
    smooth = F.interpolate(torch.rand(1, 3, 3, 4), (96, 128), mode="bicubic").clamp(0, 1) * 2 - 1
    noisy = smooth.clone()
    noisy[..., 64:] += 0.2 * torch.randn(1, 1, 96, 64)
    with torch.no_grad():
        latents = started.encode(noisy[:, None])[0][0, 0]
        of_smooth = started.encode(smooth[:, None])[0][0, 0]
    torch.testing.assert_close(latents[:3], F.avg_pool2d(noisy[0], 16), atol=5e-3, rtol=0)
    risen = latents[3:] - of_smooth[3:]
    assert float(risen[:, :, :3].abs().max()) < 0.05, "detail in the smooth half"
    means = risen[:, :, 5:].mean(dim=(1, 2)).tolist()
    assert means == sorted(means, reverse=True) and means[-1] > 0.01, (
        "noise is detail at every scale, mostly at the finest"
    )
    assert (risen[0, :, 5:] > 0.5).all()


def test_a_correction_of_the_latents_changes_the_image_smoothly(started: DifixPipeline) -> None:
    image = torch.full((1, 1, 3, 96, 96), -0.2)
    with torch.no_grad():
        latents, skips = started.encode(image)
        noise = torch.zeros_like(latents[:, 0])
        noise[:, 1, :, 3:] = 0.5
        cleaned = started.clean_latents(latents[:, 0], noise, 199)
        change = (started.decode(cleaned, skips) - image[:, 0])[0]
    alpha = float(started.scheduler.alphas_cumprod[199])
    assert float(change[[0, 2]].abs().max()) < 0.01
    inside = change[1, 16:-16]  # without the border, which is padded with zeros
    torch.testing.assert_close(inside[:, 64:80], torch.full((64, 16), -0.5 * (1 - alpha) ** 0.5), atol=0.01, rtol=0)
    assert float(inside[:, :-8].diff(dim=1).abs().max()) < 0.05


def test_decoder_and_unet_learn_after_the_start(started: DifixPipeline) -> None:
    torch.manual_seed(0)
    pipeline = build_difix(DifixArchitecture.mini())
    start_unet(pipeline.unet)
    start_autoencoder(pipeline)
    optimizer = torch.optim.AdamW([*pipeline.vae.decoder.parameters(), *pipeline.unet.parameters()], lr=1e-3)
    images, photos = torch.rand(2, 2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    for _ in range(3):  # in the first steps, gradients reach only the layers that are zero
        optimizer.zero_grad()
        (pipeline.denoise(images) - photos).square().mean().backward()
        optimizer.step()
    for part in (pipeline.vae.decoder, pipeline.unet):
        still = [n for n, p in part.named_parameters() if p.dim() > 1 and (p.grad is None or not p.grad.any())]
        # The prompt embedding of the small network is zero, so its cross-attention does not learn.
        assert not [name for name in still if ".attn2." not in name]


def test_an_unsuitable_autoencoder_is_refused() -> None:
    with pytest.raises(DifixError, match="one group"):
        start_autoencoder(make_tiny())
