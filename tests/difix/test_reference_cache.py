"""A reference photo is encoded only once, and is never confused with another photo."""

from __future__ import annotations

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix import reference_cache
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.reference_cache import ReferenceCache, fingerprints


def pictures(count: int, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> DifixPipeline:
    return make_tiny()


@pytest.fixture
def encoded(network: DifixPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of references in each call of the autoencoder."""
    counts: list[int] = []
    encode = network.vae.encode_with_skips

    def watched(images: torch.Tensor, keep_skips: bool = True, tiled: bool = False):
        if not keep_skips:
            counts.append(len(images))
        return encode(images, keep_skips=keep_skips, tiled=tiled)

    monkeypatch.setattr(network.vae, "encode_with_skips", watched)
    return counts


def test_a_photo_is_encoded_once(network: DifixPipeline, encoded: list[int]) -> None:
    photo = pictures(1, seed=1)
    first = network(pictures(1), photo, output_type="pt").images
    second = network(pictures(1), photo.clone(), output_type="pt").images
    assert encoded == [1]
    assert torch.equal(first, second)


def test_images_with_the_same_photo_share_its_encoding(network: DifixPipeline, encoded: list[int]) -> None:
    images, photos = pictures(4), pictures(2, seed=1)[[0, 1, 0, 1]]
    together = network(images, photos, output_type="pt").images
    assert encoded == [2]
    for image, photo, result in zip(images, photos, together, strict=True):
        network.reference_cache.clear()
        assert (network(image, photo, output_type="pt").images[0] - result).abs().max() < 1e-5


def test_other_photos_sizes_and_weights_are_encoded_again(network: DifixPipeline, encoded: list[int]) -> None:
    photo = pictures(1, seed=1)
    network(pictures(1), photo)
    photo[0, 0, 0, 0] += 1e-3  # the same tensor with a changed value
    network(pictures(1), photo)
    network(pictures(1, 32, 32), photo)
    with torch.no_grad():
        network.vae.encoder.conv_in.weight.mul_(0.5)
    network(pictures(1, 32, 32), photo)
    network(pictures(1, 32, 32), photo)
    assert encoded == [1, 1, 1, 1]


def test_weights_loaded_in_place_are_noticed(network: DifixPipeline) -> None:
    photo = pictures(1, seed=1)
    network(pictures(1), photo)
    other = make_tiny(seed=1)
    network.vae.load_state_dict(other.vae.state_dict())
    network.unet.load_state_dict(other.unet.state_dict())
    network.prompt_embedding = other.prompt_embedding
    expected = other(pictures(1), photo, output_type="pt").images
    assert torch.equal(network(pictures(1), photo, output_type="pt").images, expected)


def test_a_training_gets_gradients_through_the_reference(network: DifixPipeline, encoded: list[int]) -> None:
    views = torch.stack([pictures(1), pictures(1, seed=1)], dim=1)
    network(views[:, 0], views[:, 1])
    network.vae.encoder.zero_grad()
    latents, _ = network.encode(views)
    latents[:, 1].sum().backward()
    assert network.vae.encoder.get_parameter("conv_in.weight").grad.abs().sum() > 0
    assert encoded == [1, 1]


def test_a_cached_posterior_is_sampled_anew(network: DifixPipeline, encoded: list[int]) -> None:
    image, photo = pictures(1), pictures(1, seed=1)

    def sampled(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return network(image, photo, output_type="pt", sample_posterior=True, generator=generator).images

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))
    assert encoded == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_change_of_an_image_changes_its_fingerprint(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pictures(1, 12, 9)[0].to(dtype)
    images = [image, image.flip(0), image.flip(1), image.flip(2), image[[1, 0, 2]], -image, image.roll(1, dims=2)]
    swapped, signed = image.clone(), image.clone()
    swapped[0, 0, :2] = image[0, 0, [1, 0]]
    signed[2, -1, -1] *= -1
    images += [swapped, signed, torch.zeros_like(image), torch.full_like(image, float("nan"))]
    for channel, row, column in ((0, 0, 0), (1, 5, 8), (2, 11, 3)):
        images.append(image.clone())
        images[-1][channel, row, column] = torch.nextafter(image[channel, row, column], torch.ones((), dtype=dtype))
    found = fingerprints(torch.stack(images))
    assert len(set(found)) == len(images)
    monkeypatch.setattr(reference_cache, "WORDS_AT_ONCE", 20)
    assert fingerprints(torch.stack(images)) == found
    assert [fingerprints(image[None])[0] for image in images] == found


def test_the_least_recently_used_entry_is_removed() -> None:
    cache = ReferenceCache(max_entries=2)
    for name in "ab":
        cache.put((name,), torch.zeros(1))
    cache.get(("a",))
    cache.put(("c",), torch.zeros(1))
    assert [cache.get((name,)) is not None for name in "abc"] == [True, False, True]
