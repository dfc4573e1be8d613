"""Small random Difix networks in all published layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from difix.tiny_network import TINY, WEIGHTS, make_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline

LORA_MODULES = (
    "decoder.conv_in",
    "decoder.up_blocks.0.resnets.0.conv1",
    "decoder.mid_block.attentions.0.to_q",
    "decoder.mid_block.attentions.0.to_out.0",
    "decoder.conv_out",
    "decoder.skip_conv_1",
    "decoder.skip_conv_2",
    "decoder.skip_conv_3",
    "decoder.skip_conv_4",
)


@pytest.fixture(scope="session")
def tiny() -> DifixPipeline:
    """A tiny network that all tests share and none may change; `make_tiny` makes one that may be changed."""
    return make_tiny()


@pytest.fixture
def our_folder(tiny: DifixPipeline, tmp_path: Path) -> Path:
    """The network as `save_pretrained` writes it."""
    tiny.save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def lora(our_folder: Path) -> dict[str, Tensor]:
    """LoRA factors of rank 4 for decoder modules, under peft's names."""
    weights = load_file(our_folder / "vae" / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for module in LORA_MODULES:
        out, *inner = weights[f"{module}.weight"].shape
        factors[f"{module}.lora_A.vae_skip.weight"] = 0.2 * torch.randn(4, *inner, generator=generator)
        shape = (out, 4, 1, 1) if len(inner) == 3 else (out, 4)
        factors[f"{module}.lora_B.vae_skip.weight"] = 0.2 * torch.randn(shape, generator=generator)
    return factors


@pytest.fixture
def unmerged_folder(our_folder: Path, lora: dict[str, Tensor], tmp_path: Path) -> Path:
    """The network in the published layout, with separate LoRA weights, and with code that must not run."""
    folder = Path(shutil.copytree(our_folder, tmp_path / "unmerged"))
    save_file(_without_lora(folder, lora, renamed=LORA_MODULES) | lora, folder / "vae" / WEIGHTS)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"vae": ["autoencoder_kl", "AutoencoderKL"], "unet": ["unet_2d_condition", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nraise RuntimeError('code was run')\n"
    for file in ("pipeline.py", "vae/autoencoder_kl.py", "unet/unet_2d_condition.py", "__init__.py"):
        (folder / file).write_text(code)
    return folder


@pytest.fixture
def training_checkpoint(our_folder: Path, lora: dict[str, Tensor], tmp_path: Path) -> tuple[Path, Path]:
    """A training checkpoint in the authors' layout, whose LoRA is zero, and the base folder without skips."""
    base = Path(shutil.copytree(our_folder, tmp_path / "base"))
    weights = {key: value.clone() for key, value in load_file(base / "vae" / WEIGHTS).items()}
    unet = {key: value.clone() for key, value in load_file(base / "unet" / WEIGHTS).items()}
    save_file({key: value for key, value in weights.items() if "skip_conv" not in key}, base / "vae" / WEIGHTS)
    save_file({key: torch.zeros_like(value) for key, value in unet.items()}, base / "unet" / WEIGHTS)
    state = {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in lora.items()}
    for key in weights:
        if "skip_conv" in key:
            state[key.replace(".weight", ".base_layer.weight")] = weights[key]
    content = {
        "vae_lora_target_modules": list(LORA_MODULES),
        "rank_vae": 4,
        "state_dict_unet": unet,
        "state_dict_vae": state,
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, tmp_path / "model.pkl")
    return tmp_path / "model.pkl", base


@pytest.fixture
def text_encoder_folder(our_folder: Path, tmp_path: Path) -> Path:
    """The network with a text encoder and a tokenizer instead of the prompt's embedding."""
    folder = Path(shutil.copytree(our_folder, tmp_path / "text"))
    (folder / "prompt_embedding.safetensors").unlink()
    _write_text_encoder(folder)
    return folder


def _without_lora(folder: Path, lora: dict[str, Tensor], renamed: tuple[str, ...]) -> dict[str, Tensor]:
    """Base weights that equal the folder's weights once the LoRA is added with its factor of 2."""
    weights = {}
    for key, value in load_file(folder / "vae" / WEIGHTS).items():
        module, _, kind = key.rpartition(".")
        value = value.clone()
        if module in renamed and kind == "weight":
            down, up = (lora[f"{module}.lora_{half}.vae_skip.weight"] for half in "AB")
            value -= 2 * torch.einsum("or...,ri...->oi...", up, down)
        weights[f"{module}.base_layer.{kind}" if module in renamed else key] = value
    return weights


def _write_text_encoder(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "!", "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
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
