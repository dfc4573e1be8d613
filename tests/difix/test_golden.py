"""In all layouts, each stage of the network gives the result of the authors' code; see golden/README.md."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from difix.tiny_network import WEIGHTS
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.unet import predict_noise

GOLDEN = Path(__file__).parent / "golden"
LORA = re.compile(r"(.+)\.lora_([AB])\.vae_skip\.weight")


@dataclass
class Case:
    """A network loaded from one layout, and the arrays that the published code computes with it."""

    pipeline: DifixPipeline
    arrays: dict[str, np.ndarray]

    def pictures(self, name: str) -> Tensor | None:
        if name not in self.arrays:
            return None
        return torch.from_numpy(self.arrays[name]).permute(0, 3, 1, 2).float() / 255

    def error(self, name: str, value: Tensor) -> float:
        return float((value - torch.from_numpy(self.arrays[name])).abs().max())


def merge(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under plain keys, with each LoRA added with factor 2."""
    plain = {key.replace(".base_layer", ""): value.clone() for key, value in state.items() if not LORA.match(key)}
    for module in {match[1] for key in state if (match := LORA.match(key))}:
        down, up = (state[f"{module}.lora_{half}.vae_skip.weight"].flatten(1) for half in "AB")
        plain[f"{module}.weight"] += 2 * (up @ down).reshape(plain[f"{module}.weight"].shape)
    return plain


def with_weights(model: Path, folder: Path, vae: dict[str, Tensor], unet: dict[str, Tensor] | None = None) -> Path:
    shutil.copytree(model, folder)
    save_file({key: value.contiguous() for key, value in vae.items()}, folder / "vae" / WEIGHTS)
    if unet is not None:
        save_file(unet, folder / "unet" / WEIGHTS)
    return folder


def load(model: Path, layout: str, folder: Path) -> DifixPipeline:
    """The network in one of the existing layouts, which is made from the unmerged one."""
    state, unet = load_file(model / "vae" / WEIGHTS), load_file(model / "unet" / WEIGHTS)
    if layout == "unmerged":
        return DifixPipeline.from_pretrained(model)
    if layout == "merged":
        return DifixPipeline.from_pretrained(with_weights(model, folder / "merged", merge(state)))
    if layout == "saved by ours":
        DifixPipeline.from_pretrained(model).save_pretrained(folder / "ours")
        return DifixPipeline.from_pretrained(folder / "ours")
    if layout == "older peft":  # its model class adds a prefix to the keys and does not rename the base layer
        older = {f"base_model.model.{key.replace('.base_layer', '')}": value for key, value in state.items()}
        return DifixPipeline.from_pretrained(with_weights(model, folder / "older", older))
    # A training checkpoint holds the whole UNet, and the VAE's weights with `lora` or `skip` in their names.
    in_checkpoint = {key: value for key, value in state.items() if "lora" in key or "skip" in key}
    base = {key.replace(".base_layer", ""): value for key, value in state.items() if key not in in_checkpoint}
    with_weights(model, folder / "base", base, {key: torch.zeros_like(value) for key, value in unet.items()})
    content = {
        "vae_lora_target_modules": sorted({match[1] for key in state if (match := LORA.match(key))}),
        "rank_vae": 4,
        "state_dict_unet": unet,
        "state_dict_vae": in_checkpoint,
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, folder / "model.pkl")
    return DifixPipeline.from_pretrained(folder / "model.pkl", base=folder / "base")


@pytest.fixture(scope="module", params=["unmerged", "merged", "older peft", "training checkpoint", "saved by ours"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["plain", "reference"])
def case(request: pytest.FixtureRequest, layout: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    arrays = dict(np.load(GOLDEN / request.param / "golden.npz"))
    return Case(load(GOLDEN / request.param / "model", layout, tmp_path_factory.mktemp("layout")), arrays)


@torch.no_grad()
def test_every_stage_agrees_with_the_published_code(case: Case) -> None:
    images, references = case.pictures("images"), case.pictures("references")
    assert images is not None
    views = torch.stack([images] if references is None else [images, references], dim=1) * 2 - 1
    pipeline = case.pipeline
    assert case.error("prompt_embedding", pipeline.prompt_embedding) < 1e-5
    latents, skips = pipeline.encode(views)
    assert case.error("latents", latents) < 1e-5
    for level, skip in enumerate(skips):
        of_target = torch.from_numpy(case.arrays[f"skip{level}"])[:, 0]
        assert (skip - of_target).abs().max() < 1e-5
    noise = predict_noise(pipeline.unet, latents, 199, pipeline.prompt_embedding)
    assert case.error("noise_pred", noise) < 1e-4
    cleaned = pipeline.clean_latents(latents[:, 0], noise[:, 0], 199)
    assert case.error("x0_latents", cleaned[:, None]) < 1e-4


def test_the_image_agrees_with_the_published_code(case: Case) -> None:
    images, references = case.pictures("images"), case.pictures("references")
    assert images is not None
    together = case.pipeline(images, references, output_type="pt").images
    assert case.error("output", together.permute(0, 2, 3, 1)) < 1e-4
    for index in range(len(images)):
        reference = None if references is None else references[index : index + 1]
        alone = case.pipeline(images[index : index + 1], reference, output_type="pt").images
        assert (together[index] - alone[0]).abs().max() < 1e-4


def test_the_reference_matters_in_the_network_with_reference_mixing() -> None:
    arrays = dict(np.load(GOLDEN / "reference" / "golden.npz"))
    case = Case(DifixPipeline.from_pretrained(GOLDEN / "reference" / "model"), arrays)
    images, references = case.pictures("images"), case.pictures("references")
    assert images is not None and references is not None
    for wrong in (None, references.flip(0)):
        result = case.pipeline(images, wrong, output_type="pt").images
        assert case.error("output", result.permute(0, 2, 3, 1)) > 1e-2


@pytest.mark.parametrize(("name", "expects"), [("plain", False), ("reference", True)])
def test_a_published_folder_shows_whether_it_expects_references(name: str, expects: bool, tmp_path: Path) -> None:
    pipeline = DifixPipeline.from_pretrained(GOLDEN / name / "model")
    assert pipeline.config["trained_with_reference"] is expects
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["trained_with_reference"] is expects
    assert DifixPipeline.from_pretrained(tmp_path).config["trained_with_reference"] is expects
