"""All layouts load to the same network, and anything else is refused with a clear error."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from difix.tiny_network import make_tiny
from foreign_code import Evil
from safetensors.torch import load_file, save_file

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.state_dicts import merge_lora

IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(5))


def output(pipeline: DifixPipeline) -> torch.Tensor:
    return pipeline(IMAGE, IMAGE.flip(-1), output_type="pt").images


def test_a_saved_network_comes_back_the_same(tiny: DifixPipeline, our_folder: Path) -> None:
    assert torch.equal(output(DifixPipeline.from_pretrained(our_folder)), output(tiny))
    assert not list(our_folder.rglob("text_encoder"))


def test_half_precision_weights_load_to_float32(tiny: DifixPipeline, tmp_path: Path) -> None:
    half = make_tiny()
    half.to(torch.float16).save_pretrained(tmp_path)
    loaded = DifixPipeline.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    assert (output(loaded) - output(tiny)).abs().max() < 0.05


def test_an_unmerged_lora_is_added_with_factor_two(tiny: DifixPipeline, unmerged_folder: Path) -> None:
    assert (output(DifixPipeline.from_pretrained(unmerged_folder)) - output(tiny)).abs().max() < 1e-4


def test_a_training_checkpoint_loads_over_its_base(tiny: DifixPipeline, training_checkpoint: tuple[Path, Path]) -> None:
    checkpoint, base = training_checkpoint
    assert torch.equal(output(DifixPipeline.from_pretrained(checkpoint, base=base)), output(tiny))


def test_a_training_checkpoint_needs_its_base(training_checkpoint: tuple[Path, Path]) -> None:
    with pytest.raises(DifixError, match="base"):
        DifixPipeline.from_pretrained(training_checkpoint[0])


def test_old_names_of_attention_layers_load(tiny: DifixPipeline, our_folder: Path) -> None:
    file = our_folder / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for key, value in load_file(file).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        is_old_convolution = ".attentions." in key and value.dim() == 2
        renamed[key] = value[:, :, None, None].contiguous() if is_old_convolution else value
    assert any("proj_attn" in key for key in renamed)
    save_file(renamed, file)
    assert torch.equal(output(DifixPipeline.from_pretrained(our_folder)), output(tiny))


def test_lora_is_merged_with_alpha_8_over_its_rank() -> None:
    down, up = torch.randn(2, 3), torch.randn(5, 2)
    state = {"m.base_layer.weight": torch.zeros(5, 3), "m.lora_A.weight": down, "m.lora_B.weight": up}
    assert torch.allclose(merge_lora(state)["m.weight"], 4.0 * up @ down, atol=1e-6)


def test_half_a_lora_is_refused() -> None:
    with pytest.raises(DifixError, match=r"LoRA of m is incomplete"):
        merge_lora({"m.weight": torch.zeros(5, 3), "m.lora_A.x.weight": torch.zeros(2, 3)})


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DifixError, match=r"photos is not a Difix network.*vae, unet, scheduler"):
        DifixPipeline.from_pretrained(tmp_path / "photos")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DifixError, match="nowhere"):
        DifixPipeline.from_pretrained(tmp_path / "nowhere")


def test_an_unreachable_hub_id_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(DifixError, match=r"some/model .*no network"):
        DifixPipeline.from_pretrained("some/model")


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_a_half_downloaded_file_is_named(our_folder: Path, part: str) -> None:
    file = our_folder / part / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DifixError, match=rf"{part}.*incomplete or damaged"):
        DifixPipeline.from_pretrained(our_folder)


def test_missing_and_unknown_weights_are_named(our_folder: Path) -> None:
    file = our_folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["decoder.surplus"] = state.pop("decoder.skip_conv_1.weight")
    save_file(state, file)
    with pytest.raises(DifixError, match=r"missing decoder\.skip_conv_1\.weight; unknown decoder\.surplus"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_network_of_another_size_is_refused(our_folder: Path) -> None:
    config = our_folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(DifixError, match="missing"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, our_folder: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(DifixError, match=r"evil\.pkl"):
        DifixPipeline.from_pretrained(tmp_path / "evil.pkl", base=our_folder)
    assert not (tmp_path / "ran").exists()
