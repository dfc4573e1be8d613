"""Networks for aligned references: fusing a render with photos warped into its view."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from difix.tiny_network import TINY, make_tiny
from PIL import Image

from difix3d_ns.difix import tiling
from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.fusion import NUM_INPUTS, NUM_LEVELS, comparison, fuse
from difix3d_ns.difix.images import resize_with_alpha
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.vae import randomise_skip_convolutions


@pytest.fixture(scope="module")
def network() -> DifixPipeline:
    """A tiny network for aligned references in which every part affects the output."""
    torch.manual_seed(0)
    pipeline = build_difix(replace(TINY, aligned_references=True))
    randomise_skip_convolutions(pipeline.vae, scale=1.0)
    for module in (pipeline.vae, pipeline.unet):
        module.eval()
    return pipeline


def pictures(count: int, channels: int = 3, height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def views(trust: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Two renders and their references as `denoise` takes them."""
    images = pictures(4, 4).reshape(2, 2, 4, 48, 64)
    images[:, :, :3] = images[:, :, :3] * 2 - 1
    images[:, 1, 3] = trust
    return images


def factors(*of_bands: float) -> torch.Tensor:
    """The same factors everywhere, one for each band or one for all."""
    values = torch.tensor(of_bands).expand(NUM_LEVELS)
    return values[None, :, None, None].expand(2, -1, 24, 32)


def test_without_factors_the_result_is_the_render() -> None:
    assert torch.equal(fuse(views(), factors(0.0)), views()[:, 0, :3])


def test_with_all_of_the_difference_the_result_is_the_reference_where_it_is_trusted() -> None:
    trust = torch.zeros(48, 64)
    trust[:, :40] = 0.5
    result = fuse(views(trust), factors(1.0))
    torch.testing.assert_close(result[..., :40], views()[:, 1, :3, :, :40], atol=1e-5, rtol=0)


def test_a_change_of_colour_continues_where_nothing_is_known() -> None:
    images = views()
    images[:, 1, :3] = images[:, 0, :3] + 0.25
    images[:, 1, 3, 16:32, 24:40] = 0
    images[:, 1, :3, 16:32, 24:40] = -1
    result = fuse(images, factors(1.0))
    torch.testing.assert_close(result, images[:, 0, :3] + 0.25, atol=1e-5, rtol=0)


def test_a_factor_on_the_finest_band_adds_detail_but_no_colour() -> None:
    result = fuse(views(), factors(1.0, 0.0, 0.0, 0.0, 0.0))
    render, reference = views()[:, 0, :3], views()[:, 1, :3]
    assert (result - render).abs().mean() > 0.1
    coarse, before = (torch.nn.functional.avg_pool2d(image, 16) for image in (result, render))
    assert (coarse - before).abs().mean() < 0.05 * (result - render).abs().mean()
    assert (result - reference).abs().mean() < 0.7 * (render - reference).abs().mean()


def test_without_a_reference_the_render_is_returned_and_a_message_says_so(
    network: DifixPipeline, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_told_of_missing_reference", False)
    for reference in (None, pictures(1, seed=1)):  # nothing says that a photo without alpha is aligned
        result = network(pictures(1), reference, output_type="pt").images
        torch.testing.assert_close(result, pictures(1), atol=1e-6, rtol=0)
    (message,) = caplog.messages
    assert "returns the images as they are" in message


def test_an_untrusted_reference_is_as_good_as_none(network: DifixPipeline) -> None:
    assert torch.equal(comparison(views(trust=0.0)), comparison(views()[:, :1]))
    images, references = pictures(2), pictures(2, 4, seed=1)
    references[:, 3] = 0
    without = network(images, output_type="pt").images
    assert torch.equal(network(images, references, output_type="pt").images, without)
    # Nothing says that a photo without a fourth channel is aligned.
    assert torch.equal(network(images, references[:, :3], output_type="pt").images, without)


def test_the_comparison_is_finite_for_flat_and_equal_pictures() -> None:
    images = torch.zeros(1, 2, 4, 48, 64)
    images[:, 1, 3] = 1
    found = comparison(images)
    assert found.shape == (1, NUM_INPUTS, 24, 32) and found.isfinite().all()


def test_gradients_are_finite_where_nothing_is_known() -> None:
    images = views(trust=0.0).requires_grad_()
    (fuse(images, factors(1.0)).sum() + comparison(images).sum()).backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_the_reference_matters_and_only_the_own_one(network: DifixPipeline) -> None:
    images, references = pictures(3), pictures(3, 4, seed=1)
    together = network(images, references, output_type="pt").images
    alone = torch.cat([network(images[i : i + 1], references[i : i + 1], output_type="pt").images for i in range(3)])
    assert (together - alone).abs().max() < 1e-5
    assert (together - network(images, references.roll(1, 0), output_type="pt").images).abs().max() > 1e-4


def test_pil_images_with_alpha_are_references(network: DifixPipeline) -> None:
    image, reference = pictures(1), (pictures(1, 4, seed=1) * 255).round() / 255
    picture = Image.fromarray((reference[0].permute(1, 2, 0) * 255).round().byte().numpy(), "RGBA")
    found, expected = (network(image, each, output_type="pt").images for each in (picture, reference))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(48, 64), (25, 31), (64, 9), (3, 5), (1, 1)])
def test_the_output_has_exactly_the_inputs_size(network: DifixPipeline, size: tuple[int, int]) -> None:
    image = pictures(1, 3, *size)
    assert network(image, pictures(1, 4, 40, 20), output_type="pt").images.shape == image.shape


def test_a_large_image_by_tiles_gives_the_same_result(network: DifixPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE_PIXELS", 300)
    image, reference = pictures(1), pictures(1, 4, seed=1)
    whole = network(image, reference, output_type="pt").images
    tiled = network(image, reference, output_type="pt", max_pixels_per_batch=1000).images
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=0)


def test_half_precision_keeps_the_colours_of_the_render(network: DifixPipeline) -> None:
    image, reference = pictures(1), pictures(1, 4, seed=1)
    exact = network(image, reference, output_type="pt").images
    half = build_difix(replace(TINY, aligned_references=True))
    for part in ("vae", "unet"):
        getattr(half, part).load_state_dict(getattr(network, part).state_dict())
        getattr(half, part).eval()
    half.to(torch.bfloat16)
    errors = half(image, reference, output_type="pt").images - exact
    assert errors.abs().max() < 0.05
    with torch.no_grad():
        for parameter in half.vae.decoder.conv_out.parameters():
            parameter.zero_()
    torch.testing.assert_close(half(image, reference, output_type="pt").images, image, atol=1e-6, rtol=0)


def test_a_saved_network_still_takes_aligned_references(network: DifixPipeline, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "network")
    assert (
        json.loads((tmp_path / "network" / "model_index.json").read_text())["trained_with_aligned_references"] is True
    )
    loaded = DifixPipeline.from_pretrained(tmp_path / "network")
    image, reference = pictures(1), pictures(1, 4, seed=1)
    assert torch.equal(
        loaded(image, reference, output_type="pt").images, network(image, reference, output_type="pt").images
    )


def test_other_networks_do_not_take_references_of_four_channels(tmp_path: Path) -> None:
    tiny = make_tiny()
    tiny.save_pretrained(tmp_path / "network")
    assert "trained_with_aligned_references" not in json.loads((tmp_path / "network" / "model_index.json").read_text())
    assert not DifixPipeline.from_pretrained(tmp_path / "network").takes_aligned_references
    with pytest.raises(DifixError, match="three channels are needed"):
        tiny(pictures(1), pictures(1, 4))


def test_a_folder_that_only_claims_to_take_aligned_references_is_refused(tmp_path: Path) -> None:
    make_tiny().save_pretrained(tmp_path / "network")
    index = json.loads((tmp_path / "network" / "model_index.json").read_text())
    (tmp_path / "network" / "model_index.json").write_text(
        json.dumps(index | {"trained_with_aligned_references": True})
    )
    with pytest.raises(DifixError, match=r"not a Difix network for aligned references: .* takes and returns 3 and 3"):
        DifixPipeline.from_pretrained(tmp_path / "network")


def test_resizing_does_not_mix_in_colours_without_trust() -> None:
    reference = torch.zeros(1, 4, 16, 16)
    reference[:, :, :, 7:] = 1
    resized = resize_with_alpha(reference, 8, 8)
    trusted = resized[:, 3:] > 0.01
    assert trusted.any() and not trusted.all()
    torch.testing.assert_close(resized[:, :3][trusted.expand(-1, 3, -1, -1)].min(), torch.tensor(1.0))


def test_the_small_network_is_small() -> None:
    network = build_difix(DifixArchitecture.fusion())
    assert sum(p.numel() for part in (network.vae, network.unet) for p in part.parameters()) * 2 < 20e6
