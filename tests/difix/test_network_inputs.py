"""How images are sized, padded, batched and converted for the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from difix.tiny_network import make_tiny
from PIL import Image

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.images import pad_to_multiple, to_image_list
from difix3d_ns.difix.pipeline import DifixPipeline


def pictures(count: int, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch, tiny: DifixPipeline) -> list[torch.Tensor]:
    """The batches that the shared network denoises, one per call."""
    seen: list[torch.Tensor] = []
    denoise = tiny.denoise
    monkeypatch.setattr(tiny, "denoise", lambda images, **options: seen.append(images) or denoise(images, **options))
    return seen


def test_a_batch_has_at_most_the_allowed_pixels_and_at_least_one_image(
    tiny: DifixPipeline, batches: list[torch.Tensor]
) -> None:
    tiny(pictures(5), output_type="pt", max_pixels_per_batch=2 * 24 * 32)
    tiny(pictures(2), output_type="pt", max_pixels_per_batch=1)
    assert [len(batch) for batch in batches] == [2, 2, 1, 1, 1]


def test_views_are_stacked_target_first_at_the_targets_padded_size(
    tiny: DifixPipeline, batches: list[torch.Tensor]
) -> None:
    image = pictures(1, 20, 30)
    tiny(image, torch.full((1, 3, 50, 70), 0.25), output_type="pt")
    (batch,) = batches
    assert batch.shape == (1, 2, 3, 24, 32)
    torch.testing.assert_close(batch[0, 0, :, :20, :30], image[0] * 2 - 1)
    torch.testing.assert_close(batch[0, 1], torch.full((3, 24, 32), -0.5))


def test_a_given_network_size_is_used_and_made_a_multiple_of_the_factor(
    tiny: DifixPipeline, batches: list[torch.Tensor]
) -> None:
    result = tiny(pictures(1, 20, 30), output_type="pt", height=30).images
    assert batches[0].shape[-2:] == (32, 32)
    assert result.shape == (1, 3, 20, 30)


def test_padding_reflects_the_border() -> None:
    row = torch.arange(6.0).expand(1, 3, 6, 6)
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


def test_images_and_references_of_different_sizes_keep_their_order(tiny: DifixPipeline) -> None:
    generator = np.random.default_rng(0)

    def photo(width: int, height: int) -> Image.Image:
        return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))

    images = [photo(32, 24), photo(17, 23), photo(32, 24)]
    references = [photo(40, 30), photo(8, 8), photo(32, 24)]
    together = tiny(images, references).images
    assert [image.size for image in together] == [(32, 24), (17, 23), (32, 24)]
    for image, reference, result in zip(images, references, together, strict=True):
        alone = np.asarray(tiny(image, reference).images[0]).astype(int)
        assert np.abs(alone - np.asarray(result)).max() <= 1  # one level, by rounding


def test_transparent_images_are_composited_over_black() -> None:
    half = Image.fromarray(np.full((4, 4, 4), (200, 100, 50, 128), np.uint8))
    (image,) = to_image_list(half)
    np.testing.assert_allclose(image[:, 0, 0] * 255, [100, 50, 25], atol=1)


def test_float_images_are_not_rescaled() -> None:
    values = np.full((4, 4), 0.25, np.float32)
    for picture in (Image.fromarray(values), values):
        assert torch.equal(to_image_list(picture)[0], torch.full((3, 4, 4), 0.25))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strength": 1.5}, "strength is 1.5"),
        ({"height": 0}, "0 x None"),
        ({"timestep": 1000}, "timestep is 1000"),
        ({"output_type": "jpeg"}, "choose pt, np or pil"),
    ],
)
def test_options_out_of_range_are_refused(tiny: DifixPipeline, options: dict, sentence: str) -> None:
    with pytest.raises(DifixError, match=sentence):
        tiny(pictures(1, 8, 8), **options)


def test_a_black_input_may_give_a_black_output() -> None:
    network = make_tiny()
    with torch.no_grad():
        network.vae.decoder.conv_out.weight.zero_()
        network.vae.decoder.conv_out.bias.fill_(-100.0)
    assert network(torch.zeros(1, 3, 8, 8), output_type="pt").images.max() == 0
