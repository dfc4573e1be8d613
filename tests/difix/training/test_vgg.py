"""VGG-16: where it comes from, and what is compared in its features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training import vgg
from difix3d_ns.difix.training.train_options import LossConfig
from difix3d_ns.difix.training.vgg import PerceptualLoss, VggFeatures, gram_matrix, load_perceptual


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's networks cannot be had."""
    monkeypatch.setattr(vgg, "load_lpips", lambda backbone: None)


def test_the_features_are_torchvisions(vgg_weights: Path, images: tuple[Tensor, Tensor]) -> None:
    network = torchvision.models.vgg16(weights=None).features.eval()
    state = {name.removeprefix("features."): value.float() for name, value in load_file(vgg_weights).items()}
    network.load_state_dict(state)
    sample = torchvision.transforms.functional.normalize(images[0], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = []
    for index, layer in enumerate(network):
        sample = layer(sample)
        if index in (3, 8, 15, 22, 29):
            expected.append(sample.clone())
    for features, of_torchvision in zip(VggFeatures.from_file(vgg_weights)(images[0]), expected, strict=True):
        torch.testing.assert_close(features, of_torchvision, atol=1e-4, rtol=1e-4)


def test_without_lpips_the_scale_of_the_weights_does_not_count(
    images: tuple[Tensor, Tensor], vgg_weights: Path
) -> None:
    loss = PerceptualLoss(VggFeatures.from_file(vgg_weights))
    before = loss(*images)
    loss.features.convolutions[0].weight.data.mul_(100)
    for value, scaled in zip(before, loss(*images), strict=True):
        assert float(scaled) == pytest.approx(float(value), rel=1e-3)


def test_with_lpips_the_distance_is_lpips_and_the_gram_loss_the_published_one(
    images: tuple[Tensor, Tensor], vgg_weights: Path
) -> None:
    features = VggFeatures.from_file(vgg_weights)
    loss = PerceptualLoss(features, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3), keepdim=True))
    distance, gram = loss(*images)
    torch.testing.assert_close(distance, (images[0] - images[1]).abs().mean())
    weights, expected = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5), torch.zeros(())
    for weight, a, b in zip(weights, *(features(each / 2 + 0.5) for each in images), strict=True):
        grams = [torch.einsum("bchw,bdhw->bcd", x, x) / x[0].numel() for x in (a, b)]
        expected = expected + weight * (grams[0] - grams[1]).square().mean()
    torch.testing.assert_close(gram, expected)


def test_only_what_is_asked_for_is_computed(images: tuple[Tensor, Tensor], vgg_weights: Path) -> None:
    loss = PerceptualLoss(VggFeatures.from_file(vgg_weights))
    assert loss(*images, with_gram=False)[1] is None
    assert loss(*images, with_distance=False)[0] is None


def test_a_gram_matrix_forgets_where_things_are() -> None:
    features = torch.rand(1, 4, 6, 6)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(features.flip(-1)))
    expected = (features[0, 0] * features[0, 1]).sum() / features[0].numel()
    torch.testing.assert_close(gram_matrix(features)[0, 0, 1], expected)


def test_vgg_weights_that_are_missing_or_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(DifixError, match=r"nowhere\.safetensors cannot be read"):
        VggFeatures.from_file(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DifixError, match=r"other\.safetensors holds no VGG-16"):
        VggFeatures.from_file(tmp_path / "other.safetensors")


def test_torchvisions_network_is_used_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch, vgg_weights: Path) -> None:
    monkeypatch.setattr(vgg, "load_lpips", lambda backbone: torch.nn.PairwiseDistance())
    monkeypatch.setattr(VggFeatures, "from_torchvision", lambda: VggFeatures.from_file(vgg_weights))
    loss, sentence = load_perceptual(LossConfig())
    assert loss is not None
    assert (loss.name, loss.metric_name) == ("LPIPS (VGG)", "lpips")
    assert sentence == "LPIPS and Gram on torchvision's VGG-16."


@pytest.mark.usefixtures("offline")
def test_without_torchvisions_network_the_file_is_used_under_another_name(vgg_weights: Path) -> None:
    loss, sentence = load_perceptual(LossConfig(vgg_weights=vgg_weights))
    assert loss is not None
    assert (loss.name, loss.metric_name) == ("VGG perceptual distance", "vgg_perceptual_distance")
    assert sentence.startswith("VGG perceptual distance, which is not LPIPS, and Gram on ")
    assert sentence.endswith("(torchvision's is neither cached nor can it be downloaded now).")


@pytest.mark.usefixtures("offline")
def test_without_any_vgg_one_sentence_says_why() -> None:
    assert load_perceptual(LossConfig()) == (
        None,
        "No VGG-16: torchvision's is neither cached nor can it be downloaded now, and --loss.vgg-weights is not set.",
    )
    assert load_perceptual(LossConfig(backbone="file"))[1] == "No VGG-16: --loss.vgg-weights is not set."
    with pytest.raises(DifixError, match="neither cached nor"):
        load_perceptual(LossConfig(backbone="torchvision"))
