"""The losses and their options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.losses import DifixLoss
from difix3d_ns.difix.training.train_options import LossConfig
from difix3d_ns.difix.training.vgg import PerceptualLoss, VggFeatures

ALL = LossConfig(charbonnier=1.0, ssim=1.0, gram_warmup_steps=0)


@pytest.fixture
def perceptual(vgg_weights: Path) -> PerceptualLoss:
    return PerceptualLoss(VggFeatures.from_file(vgg_weights))


def test_each_loss_is_zero_for_the_photo_itself_and_positive_otherwise(
    images: tuple[Tensor, Tensor], perceptual: PerceptualLoss
) -> None:
    loss = DifixLoss(ALL, perceptual)
    render, photos = images
    losses, best = loss(render, photos, step=0), loss(photos, photos, step=0)
    assert set(losses) == {"l2", "charbonnier", "ssim", "perceptual", "gram"}
    for name, value in best.items():
        assert float(value) == pytest.approx(1e-3 if name == "charbonnier" else 0.0, abs=1e-6)
        assert float(losses[name]) > 10 * float(value)


def test_gradients_reach_the_image_and_not_the_vgg(images: tuple[Tensor, Tensor], perceptual: PerceptualLoss) -> None:
    loss = DifixLoss(LossConfig(l2=0.0, gram_warmup_steps=0), perceptual)
    render = images[0].clone().requires_grad_(True)
    torch.stack(list(loss(render, images[1], step=0).values())).sum().backward()
    assert render.grad is not None
    assert float(render.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_weights_scale_their_losses(images: tuple[Tensor, Tensor], perceptual: PerceptualLoss) -> None:
    once = DifixLoss(ALL, perceptual)(*images, step=0)
    thrice = DifixLoss(replace(ALL, l2=3.0, charbonnier=3.0, ssim=3.0, perceptual=3.0, gram=3.0), perceptual)
    assert once["l2"] == pytest.approx(float((images[0] - images[1]).square().mean()))
    for name, value in thrice(*images, step=0).items():
        assert float(value) == pytest.approx(3 * float(once[name]), rel=1e-5)


def test_the_losses_of_a_batch_are_the_mean_over_its_examples(
    images: tuple[Tensor, Tensor], perceptual: PerceptualLoss
) -> None:
    loss = DifixLoss(ALL, perceptual)
    render, photos = images[0], images[1] * torch.tensor([1.0, 0.3])[:, None, None, None]
    alone = [loss(render[i : i + 1], photos[i : i + 1], step=0) for i in range(2)]
    for name, value in loss(render, photos, step=0).items():
        assert float(value) == pytest.approx(float(alone[0][name] + alone[1][name]) / 2, rel=1e-4)


def test_the_gram_loss_waits_for_its_warm_up(images: tuple[Tensor, Tensor], perceptual: PerceptualLoss) -> None:
    loss = DifixLoss(LossConfig(gram_warmup_steps=5), perceptual)
    assert "gram" not in loss(*images, step=4)
    assert "gram" in loss(*images, step=5)


def test_losses_that_are_left_out_are_listed(perceptual: PerceptualLoss) -> None:
    line = DifixLoss(LossConfig(ssim=0.5)).in_words()
    assert line == "Losses: l2, ssim. Left out for lack of VGG-16: perceptual, gram."
    assert DifixLoss(LossConfig(perceptual=0, gram=0)).in_words() == "Losses: l2."
    assert DifixLoss(LossConfig(), perceptual).in_words() == "Losses: l2, perceptual, gram."


def test_no_loss_at_all_is_refused(perceptual: PerceptualLoss) -> None:
    with pytest.raises(DifixError, match="no loss is left"):
        DifixLoss(LossConfig(l2=0.0))
    with pytest.raises(DifixError, match="no loss is left"):  # there is no loss during the warm-up
        DifixLoss(LossConfig(l2=0.0, perceptual=0.0), perceptual)


def test_the_psnr_loss_rewards_a_tenth_of_the_error_equally_for_good_and_bad_examples() -> None:
    loss = DifixLoss(LossConfig(l2=0.0, psnr=2.0, perceptual=0.0, gram=0.0), None)
    photos = torch.zeros(2, 3, 8, 8)

    def value(first: float, second: float) -> float:
        errors = torch.tensor([first, second]).sqrt()[:, None, None, None]
        return float(loss(photos + errors, photos, step=0)["psnr"])

    before = value(0.01, 0.1)
    assert value(0.001, 0.1) - before == pytest.approx(-1.0, abs=1e-2)
    assert value(0.01, 0.01) - before == pytest.approx(-1.0, abs=1e-2)
