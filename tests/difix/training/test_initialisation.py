"""The start of small networks as identity."""

from __future__ import annotations

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.initialisation import start_as_identity


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.2), (0.8, 1.0)])
def test_the_small_network_starts_as_identity_on_pictures_of_any_brightness(low: float, high: float) -> None:
    torch.manual_seed(0)
    pipeline = build_difix(DifixArchitecture.mini())
    start_as_identity(pipeline.vae)
    image, reference = low + (high - low) * torch.rand(1, 3, 40, 48), torch.rand(1, 3, 40, 48)
    for result in (pipeline(image, output_type="pt"), pipeline(image, reference, output_type="pt")):
        assert float((result.images - image).abs().max()) < 0.02


def test_every_part_of_the_small_network_learns_after_the_start() -> None:
    torch.manual_seed(0)
    pipeline = build_difix(DifixArchitecture.mini())
    start_as_identity(pipeline.vae)
    optimizer = torch.optim.AdamW([*pipeline.vae.parameters(), *pipeline.unet.parameters()], lr=1e-3)
    images, photos = torch.rand(2, 2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    for _ in range(2):  # in the first step only what is zero moves
        optimizer.zero_grad()
        (pipeline.denoise(images) - photos).square().mean().backward()
        optimizer.step()
    for part in (pipeline.vae.encoder, pipeline.vae.decoder, pipeline.unet):
        still = [n for n, p in part.named_parameters() if p.dim() > 1 and (p.grad is None or not p.grad.any())]
        # The small network's prompt is zero, so its cross-attention has nothing to learn.
        assert not [name for name in still if ".attn2." not in name]


def test_a_network_that_cannot_start_as_identity_is_refused() -> None:
    with pytest.raises(DifixError, match="one group"):
        start_as_identity(make_tiny().vae)
