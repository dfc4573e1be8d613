"""A few small pairs on disk, and options for trainings short enough for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from difix.random_vgg import write_random_vgg
from difix.tiny_network import make_tiny
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from difix3d_ns.difix.training.train_options import LossConfig, TrainConfig

HEIGHT, WIDTH = 40, 48


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes values in [0, 1] as PNG."""
    Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG-16 with random weights."""
    return write_random_vgg(tmp_path_factory.mktemp("vgg") / "vgg.safetensors")


@pytest.fixture
def pairs_json(tmp_path: Path) -> Path:
    """Two training pairs and one test pair, with references. The renders are darkened photos of smooth colours."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    parts: dict[str, dict[str, dict[str, str]]] = {"train": {}, "test": {}}
    for index, part in enumerate(("train", "train", "test")):
        waves = [np.sin(rows / (4 + index) + c) + np.cos(columns / 5 - c) for c in range(3)]
        photo = 0.5 + 0.2 * np.stack(waves, axis=-1)
        save_picture(folder / f"photo_{index}.png", photo)
        save_picture(folder / f"render_{index}.png", 0.6 * photo)
        save_picture(folder / f"reference_{index}.png", photo[::-1])
        parts[part][f"view_{index}"] = {
            "image": f"render_{index}.png",
            "target_image": str(folder / f"photo_{index}.png"),
            "ref_image": f"reference_{index}.png",
            "prompt": "remove degradation",
        }
    path = folder / "pairs.json"
    path.write_text(json.dumps(parts))
    return path


@pytest.fixture
def tiny_base(tmp_path: Path) -> Path:
    """Folder with a tiny network."""
    make_tiny().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tiny_sd_turbo(tmp_path: Path) -> Path:
    """Folder with a tiny Stable Diffusion in SD-Turbo's layout: no skips, a text encoder, and another scheduler."""
    torch.manual_seed(0)
    (tmp_path / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=8)
    text_config = CLIPTextConfig(
        vocab_size=2,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    tiny = make_tiny()
    skip_settings = ("gamma", "ignore_skip", "lora_rank")
    stock = {name: value for name, value in tiny.vae.config.items() if name not in skip_settings}
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(stock),
        unet=UNet2DConditionModel.from_config(tiny.unet.config),
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "sd-turbo")
    return tmp_path / "sd-turbo"


@pytest.fixture
def make_config(pairs_json: Path, tiny_base: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes options for short trainings of the tiny network."""
    config = TrainConfig(
        pairs=pairs_json,
        output_dir=tmp_path / "out",
        base=str(tiny_base),
        train_parts="all",
        steps=4,
        batch_size=2,
        crop_size=32,
        learning_rate=1e-3,
        warmup_steps=2,
        loss=LossConfig(l2=1.0, ssim=0.1, backbone="none"),
        steps_per_save=2,
        steps_per_validation=2,
    )
    return lambda **changes: replace(config, **changes)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images and the originals, in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    photos = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    return (photos + 0.3 * torch.randn(photos.shape, generator=generator)).clamp(-1, 1), photos
