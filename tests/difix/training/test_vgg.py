"""VGG-16: where its weights come from, and the losses on its features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.lpips import cached_backbone
from difix3d_ns.difix.training import vgg
from difix3d_ns.difix.training.train_options import LossConfig
from difix3d_ns.difix.training.vgg import PerceptualLoss, VggFeatures, gram_loss, gram_matrix, load_perceptual


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's networks are neither cached nor available for download."""
    monkeypatch.setattr(vgg, "load_lpips", lambda backbone: None)


def test_the_features_equal_those_of_torchvision(vgg_weights: Path, images: tuple[Tensor, Tensor]) -> None:
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


def test_without_lpips_the_scale_of_the_weights_does_not_matter(
    images: tuple[Tensor, Tensor], vgg_weights: Path
) -> None:
    loss = PerceptualLoss(VggFeatures.from_file(vgg_weights))
    before = loss(*images)
    loss.features.convolutions[0].weight.data.mul_(100)
    for value, scaled in zip(before, loss(*images), strict=True):
        assert float(scaled) == pytest.approx(float(value), rel=1e-3)


def test_with_lpips_the_distance_is_lpips_and_the_gram_loss_is_that_of_the_features_as_they_are(
    images: tuple[Tensor, Tensor], vgg_weights: Path
) -> None:
    loss = PerceptualLoss(
        VggFeatures.from_file(vgg_weights), lambda a, b: (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)
    )
    distance, gram = loss(*images)
    torch.testing.assert_close(distance, (images[0] - images[1]).abs().mean())
    # Without biases, the features are proportional to the first weights, and the loss to their fourth power.
    loss.features.convolutions[0].weight.data.mul_(2)
    assert float(loss(*images)[1]) == pytest.approx(16 * float(gram), rel=1e-3)


def test_the_gram_loss_weighs_the_layers_as_published() -> None:
    same, other = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)  # their Gram matrices are 0 and 1
    for layer, weight in enumerate((1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)):
        pairs = [(other if index == layer else same, same) for index in range(5)]
        assert float(gram_loss(pairs)) == pytest.approx(weight)


def test_only_what_is_asked_for_is_computed(images: tuple[Tensor, Tensor], vgg_weights: Path) -> None:
    loss = PerceptualLoss(VggFeatures.from_file(vgg_weights))
    assert loss(*images, with_gram=False)[1] is None
    assert loss(*images, with_distance=False)[0] is None


def test_a_gram_matrix_does_not_depend_on_positions() -> None:
    features = torch.rand(1, 4, 6, 6)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(features.flip(-1)))
    expected = (features[0, 0] * features[0, 1]).sum() / features[0].numel()
    torch.testing.assert_close(gram_matrix(features)[0, 0, 1], expected)


def test_vgg_weights_that_are_missing_or_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(DifixError, match=r"nowhere\.safetensors cannot be read"):
        VggFeatures.from_file(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DifixError, match=r"other\.safetensors does not contain the weights of VGG-16"):
        VggFeatures.from_file(tmp_path / "other.safetensors")


def test_torchvisions_network_is_used_if_available(monkeypatch: pytest.MonkeyPatch, vgg_weights: Path) -> None:
    monkeypatch.setattr(vgg, "load_lpips", lambda backbone: torch.nn.PairwiseDistance())
    monkeypatch.setattr(VggFeatures, "from_torchvision", lambda: VggFeatures.from_file(vgg_weights))
    loss, sentence = load_perceptual(LossConfig())
    assert loss is not None
    assert loss.metric_name == "lpips"
    assert sentence == "LPIPS and Gram on torchvision's VGG-16."


@pytest.mark.usefixtures("offline")
def test_without_torchvisions_network_the_file_is_used_under_another_name(vgg_weights: Path) -> None:
    loss, sentence = load_perceptual(LossConfig(vgg_weights=vgg_weights))
    assert loss is not None
    assert loss.metric_name == "vgg_perceptual_distance"
    assert sentence.startswith("VGG perceptual distance, which is not LPIPS, and Gram on ")
    assert sentence.endswith("(torchvision's is not cached and cannot be downloaded now).")


@pytest.mark.usefixtures("offline")
def test_without_any_vgg_one_sentence_says_why() -> None:
    assert load_perceptual(LossConfig()) == (
        None,
        "No VGG-16: --loss.vgg-weights is not set, and torchvision's is not cached and cannot be downloaded now.",
    )
    with pytest.raises(DifixError, match=r"--loss\.backbone file needs --loss\.vgg-weights"):
        load_perceptual(LossConfig(backbone="file"))
    with pytest.raises(DifixError, match="is not cached and cannot be downloaded"):
        load_perceptual(LossConfig(backbone="torchvision"))


@pytest.mark.usefixtures("offline")
def test_a_damaged_cached_network_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = cached_backbone("vgg")
    file.parent.mkdir()
    file.write_bytes(b"half a download")
    assert load_perceptual(LossConfig()) == (
        None,
        f"No VGG-16: --loss.vgg-weights is not set, and torchvision's at {file} is damaged; delete it, so that it is "
        "downloaded again.",
    )
    with pytest.raises(DifixError, match=r"VGG-16 at .*\.pth is damaged: delete it, so that it is downloaded again"):
        load_perceptual(LossConfig(backbone="torchvision"))
