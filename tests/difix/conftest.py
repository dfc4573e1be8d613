"""Small random Difix networks in every layout they are published in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.vae import randomise_skip_convolutions

TINY = DifixArchitecture(
    vae_block_out_channels=(8, 8, 16, 24),
    vae_layers_per_block=1,
    vae_norm_num_groups=4,
    unet_block_out_channels=(16, 24),
    unet_attention_levels=(True, False),
    unet_layers_per_block=1,
    unet_norm_num_groups=4,
    unet_num_heads=(2, 2),
    cross_attention_dim=8,
    prompt_tokens=3,
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_MODULES = (
    "decoder.conv_in",
    "decoder.up_blocks.0.resnets.0.conv1",
    "decoder.mid_block.attentions.0.to_q",
    "decoder.mid_block.attentions.0.to_out.0",
    "decoder.skip_conv_1",
    "decoder.skip_conv_4",
)


@pytest.fixture
def pipeline() -> DifixPipeline:
    """A network with random weights, skips and prompt that leave their mark on the output."""
    torch.manual_seed(0)
    network = build_difix(TINY)
    randomise_skip_convolutions(network.vae, scale=1.0)
    network.prompt_embedding = torch.randn(1, TINY.prompt_tokens, TINY.cross_attention_dim)
    return network


@pytest.fixture
def images() -> Tensor:
    """Three pictures of 32 x 40 in [0, 1]."""
    return torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def references() -> Tensor:
    """Three other pictures of the same size."""
    return torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def saved(pipeline: DifixPipeline, tmp_path: Path) -> Path:
    """The network in the layout that `save_pretrained` writes."""
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hub_folder(saved: Path, tmp_path: Path) -> Path:
    """The network in the published layout: text encoder, custom code beside it, LoRA merged."""
    folder = Path(shutil.copytree(saved, tmp_path / "hub"))
    (folder / "prompt_embedding.safetensors").unlink()
    _write_text_encoder(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "vae": ["autoencoder_kl", "AutoencoderKL"],
        "unet": ["unet_2d_condition", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def lora(hub_folder: Path) -> dict[str, Tensor]:
    """LoRA factors of rank 4 of some decoder modules, under peft's names."""
    weights = load_file(hub_folder / "vae" / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for module in LORA_MODULES:
        out, *inner = weights[f"{module}.weight"].shape
        factors[f"{module}.lora_A.vae_skip.weight"] = 0.3 * torch.randn(4, *inner, generator=generator)
        shape = (out, 4, 1, 1) if len(inner) == 3 else (out, 4)
        factors[f"{module}.lora_B.vae_skip.weight"] = 0.3 * torch.randn(shape, generator=generator)
    return factors


@pytest.fixture
def lora_folder(hub_folder: Path, lora: dict[str, Tensor], tmp_path: Path) -> Path:
    """The published layout with LoRA beside the weights, as `nvidia/difix_ref` has it."""
    folder = Path(shutil.copytree(hub_folder, tmp_path / "hub_lora"))
    renamed = {}
    for key, value in load_file(folder / "vae" / WEIGHTS).items():
        module, _, kind = key.rpartition(".")
        renamed[f"{module}.base_layer.{kind}" if module in LORA_MODULES else key] = value.clone()
    save_file(renamed | lora, folder / "vae" / WEIGHTS)
    return folder


@pytest.fixture
def edit_weights() -> Callable[[Path, Callable[[dict[str, Tensor]], dict[str, Tensor]]], None]:
    """Rewrites a weight file through a function of its state dict."""

    def edit(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        save_file(change({key: value.clone() for key, value in load_file(file).items()}), file)

    return edit


def _write_text_encoder(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "a",
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(4)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TINY.cross_attention_dim,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
