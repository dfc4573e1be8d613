"""The losses and their settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.config import LossConfig
from difix3d_ns.difix.training.losses import VGG_CHANNELS, DifixLoss, VggFeatures, gram_matrix, losses_in_words


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in VGG-16's shapes, under torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    channels, index = 3, 0
    for stage in VGG_CHANNELS:
        for width in stage:
            state[f"features.{index}.weight"] = (
                torch.randn(width, channels, 3, 3, generator=generator) / (4.5 * channels) ** 0.5
            ).half()
            state[f"features.{index}.bias"] = torch.zeros(width).half()
            channels, index = width, index + 2
        index += 1
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    photos = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    return (photos + 0.3 * torch.randn(photos.shape, generator=generator)).clamp(-1, 1), photos


def test_each_loss_is_zero_on_the_photo_itself_and_positive_elsewhere(
    images: tuple[Tensor, Tensor], vgg_weights: Path
) -> None:
    loss = DifixLoss(LossConfig(charbonnier=1.0, ssim=1.0, gram_warmup_steps=0, vgg_weights=vgg_weights))
    render, photos = images
    losses, best = loss(render, photos, step=0), loss(photos, photos, step=0)
    assert set(losses) == {"l2", "charbonnier", "ssim", "perceptual", "gram"}
    for name, value in best.items():
        assert float(value) == pytest.approx(1e-3 if name == "charbonnier" else 0.0, abs=1e-6)
        assert float(losses[name]) > 10 * float(value)


def test_gradients_reach_the_image_and_not_the_vgg(images: tuple[Tensor, Tensor], vgg_weights: Path) -> None:
    loss = DifixLoss(LossConfig(l2=0.0, gram_warmup_steps=0, vgg_weights=vgg_weights))
    render = images[0].clone().requires_grad_(True)
    torch.stack(list(loss(render, images[1], step=0).values())).sum().backward()
    assert render.grad is not None
    assert float(render.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_weights_scale_their_losses(images: tuple[Tensor, Tensor]) -> None:
    once = DifixLoss(LossConfig(l2=1.0, charbonnier=1.0, ssim=1.0))(*images, step=0)
    thrice = DifixLoss(LossConfig(l2=3.0, charbonnier=3.0, ssim=3.0))(*images, step=0)
    assert once["l2"] == pytest.approx(float((images[0] - images[1]).square().mean()))
    for name, value in once.items():
        assert float(thrice[name]) == pytest.approx(3 * float(value))


def test_the_gram_loss_waits_for_its_warm_up(images: tuple[Tensor, Tensor], vgg_weights: Path) -> None:
    loss = DifixLoss(LossConfig(gram_warmup_steps=5, vgg_weights=vgg_weights))
    assert "gram" not in loss(*images, step=4)
    assert "gram" in loss(*images, step=5)


def test_losses_do_not_depend_on_the_scale_of_the_vgg_weights(images: tuple[Tensor, Tensor], vgg_weights: Path) -> None:
    loss = DifixLoss(LossConfig(gram_warmup_steps=0, vgg_weights=vgg_weights))
    before = loss(*images, step=0)
    assert loss.vgg is not None
    loss.vgg.convolutions[0].weight.data.mul_(100)
    for name, value in loss(*images, step=0).items():
        assert float(value) == pytest.approx(float(before[name]), rel=1e-3)


def test_a_gram_matrix_forgets_where_things_are() -> None:
    features = torch.rand(1, 4, 6, 6)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(features.flip(-1)))
    expected = (features[0, 0] * features[0, 1]).sum() / features[0].numel()
    torch.testing.assert_close(gram_matrix(features)[0, 0, 1], expected)


def test_one_line_says_what_is_left_out_and_why() -> None:
    line = losses_in_words(LossConfig(ssim=0.5))
    assert "l2, ssim." in line
    assert "--loss.vgg-weights is not set: perceptual, gram" in line
    assert losses_in_words(LossConfig(perceptual=0, gram=0)) == "Losses: l2."


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(DifixError, match="no loss is left"):
        DifixLoss(LossConfig(l2=0.0))


def test_vgg_weights_that_are_missing_or_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(DifixError, match=r"nowhere\.safetensors cannot be read"):
        VggFeatures(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DifixError, match=r"other\.safetensors holds no VGG-16"):
        VggFeatures(tmp_path / "other.safetensors")
