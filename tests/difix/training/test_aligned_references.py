"""Training a network for aligned references, whose alpha says how far they are to be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from difix.training.conftest import save_picture
from PIL import Image
from scipy import ndimage

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.networks import start_network
from difix3d_ns.difix.training.pairs import Pair, PairReader, load_pair
from difix3d_ns.difix.training.sampling import PairSampler
from difix3d_ns.difix.training.train import train
from difix3d_ns.difix.training.train_options import LossConfig, TrainConfig

MakeConfig = Callable[..., TrainConfig]
SIDE = 48


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A blurred render, and a reference that is right and trusted at the left, and wrong and untrusted at the right."""
    noise = np.random.default_rng(0).random((SIDE, SIDE, 3))
    photo = ndimage.gaussian_filter(noise, (1, 1, 0))
    photo = (photo - photo.mean()) / photo.std() * 0.15 + 0.5
    reference = np.concatenate([photo, np.ones((SIDE, SIDE, 1))], axis=-1)
    reference[:, SIDE // 2 :] = [1.0, 0.0, 0.0, 0.0]
    save_picture(tmp_path / "photo.png", photo)
    save_picture(tmp_path / "render.png", ndimage.gaussian_filter(photo, (3, 3, 0)))
    Image.fromarray((reference.clip(0, 1) * 255).round().astype(np.uint8), "RGBA").save(tmp_path / "reference.png")
    return Pair("a", tmp_path / "render.png", tmp_path / "photo.png", tmp_path / "reference.png")


@pytest.fixture
def pairs_json(pair: Pair, tmp_path: Path) -> Path:
    entry = {"image": str(pair.image), "target_image": str(pair.target), "ref_image": str(pair.reference)}
    (tmp_path / "pairs.json").write_text(json.dumps({"train": {"a": entry}, "test": {"a": entry}}))
    return tmp_path / "pairs.json"


def test_trust_is_the_alpha_of_the_reference(pair: Pair) -> None:
    views = load_pair(pair, with_trust=True)
    assert views.shape == (3, 4, SIDE, SIDE)
    assert (views[:2, 3] == 1).all()
    assert (views[2, 3, :, : SIDE // 2] == 1).all() and (views[2, 3, :, SIDE // 2 :] == 0).all()
    # The colours are those of the file, not laid over black.
    assert views[2, :3, 0, -1].tolist() == [1.0, 0.0, 0.0]


def test_a_reference_without_alpha_is_not_trusted(pair: Pair) -> None:
    assert pair.reference is not None
    Image.open(pair.reference).convert("RGB").save(pair.reference)
    assert (load_pair(pair, with_trust=True)[2, 3] == 0).all()


def test_augmentation_changes_colours_but_not_trust(pair: Pair) -> None:
    reader = PairReader(with_trust=True)
    sampler = PairSampler([pair], 32, seed=0, color_jitter=0.3, damage_probability=0.5, multiple=16, reader=reader)
    inputs, photos = sampler.batch(0, batch_size=4)
    assert inputs.shape == (4, 2, 4, 32, 32) and photos.shape == (4, 3, 32, 32)
    assert set(inputs[:, 1, 3].unique().tolist()) <= {0.0, 1.0} and (inputs[:, 0, 3] == 1).all()
    # Where it is trusted, the reference is still the photo.
    trusted = (inputs[:, 1, 3:] == 1).expand(-1, 3, -1, -1)
    assert trusted.any()
    torch.testing.assert_close(inputs[:, 1, :3][trusted], photos[trusted], atol=0.01, rtol=0)


def test_the_new_network_adds_a_quarter_of_the_difference_to_the_reference(make_config: MakeConfig) -> None:
    network = start_network(make_config(base=None, architecture="fusion"))
    image, reference = torch.rand(1, 3, 48, 64), torch.rand(1, 4, 48, 64)
    reference[:, 3] = 1
    expected = image.lerp(reference[:, :3], 0.25)
    torch.testing.assert_close(network(image, reference, output_type="pt").images, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(network(image, output_type="pt").images, image, atol=1e-6, rtol=0)


def test_training_teaches_it_to_take_details_from_the_trusted_part(make_config: MakeConfig, pair: Pair) -> None:
    config = make_config(
        base=None,
        architecture="fusion",
        train_parts=None,
        steps=40,
        crop_size=SIDE,
        batch_size=1,
        learning_rate=3e-3,
        warmup_steps=5,
        schedule="cosine",
        ema_decay=0.0,
        loss=LossConfig(l2=0.0, psnr=1.0, backbone="none"),
        reference_probability=1.0,
        steps_per_save=1000,
        steps_per_validation=1000,
    )
    metrics = train(config)
    assert metrics["psnr_with_reference"] > metrics["psnr_nothing"] + 1.5
    network = DifixPipeline.from_pretrained(config.output_dir)
    assert network.takes_aligned_references and network.config["trained_with_reference"] is True
    render, photo, reference = load_pair(pair, with_trust=True)
    result = network(render[:3], reference, output_type="pt").images[0]
    before, after = ((each - photo[:3]).square()[..., : SIDE // 2].mean() for each in (render[:3], result))
    assert after < before / 4


def test_references_without_alpha_cannot_teach_it(make_config: MakeConfig, pair: Pair) -> None:
    assert pair.reference is not None
    Image.open(pair.reference).convert("RGB").save(pair.reference)
    with pytest.raises(DifixError, match="no reference with alpha"):
        train(make_config(base=None, architecture="fusion", train_parts=None))
