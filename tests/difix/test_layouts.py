"""What a network's folder may contain, what it must contain, and what in it is ignored."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from difix.tiny_network import WEIGHTS
from foreign_code import Evil
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer

IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(5))


def output(pipeline: DifixPipeline) -> Tensor:
    return pipeline(IMAGE, IMAGE.flip(-1), output_type="pt").images


def edit_config(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_folders_text_encoder_embeds_the_prompt(text_encoder_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    pipeline = DifixPipeline.from_pretrained(text_encoder_folder)
    # Start, the letters of "remove degradation" with special tokens for the last of each word, end, and padding.
    vocabulary = json.loads((text_encoder_folder / "tokenizer" / "vocab.json").read_text())
    spelled = [*"remov", "e</w>", *"degradatio", "n</w>"]
    tokens = [vocabulary[token] for token in ("<|startoftext|>", *spelled, "<|endoftext|>")]
    tokens += [vocabulary["!"]] * (77 - len(tokens))
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(text_encoder_folder / "text_encoder")(torch.tensor([tokens]))[0]
    torch.testing.assert_close(pipeline.prompt_embedding, expected)

    pipeline.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "text_encoder").exists()
    assert torch.equal(output(DifixPipeline.from_pretrained(tmp_path / "again")), output(pipeline))


def test_code_in_the_folder_is_not_run(unmerged_folder: Path, tmp_path: Path) -> None:
    DifixPipeline.from_pretrained(unmerged_folder)
    assert not (tmp_path / "ran").exists()


def test_lora_at_half_strength_changes_the_output(tiny: DifixPipeline, unmerged_folder: Path) -> None:
    file = unmerged_folder / "vae" / WEIGHTS
    state = {key: value.clone() for key, value in load_file(file).items()}
    save_file({key: value / 2 if "lora_B" in key else value for key, value in state.items()}, file)
    assert (output(DifixPipeline.from_pretrained(unmerged_folder)) - output(tiny)).abs().max() > 1e-2


def test_a_training_checkpoints_lora_is_merged_into_the_base(
    training_checkpoint: tuple[Path, Path], lora: dict[str, Tensor]
) -> None:
    checkpoint, base = training_checkpoint
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict_vae"] |= lora
    torch.save(content, checkpoint)
    merged = DifixPipeline.from_pretrained(checkpoint, base=base).vae.state_dict()
    base_weights = load_file(base / "vae" / WEIGHTS)
    for key in ("decoder.conv_out", "decoder.mid_block.attentions.0.to_q"):
        down, up = (lora[f"{key}.lora_{half}.vae_skip.weight"].flatten(1) for half in "AB")
        change = merged[f"{key}.weight"] - base_weights[f"{key}.weight"]
        torch.testing.assert_close(change.flatten(1), 2 * up @ down, atol=1e-5, rtol=1e-4)


def test_weights_load_from_bin_files(tiny: DifixPipeline, our_folder: Path) -> None:
    for part in ("vae", "unet"):
        file = our_folder / part / WEIGHTS
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    assert torch.equal(output(DifixPipeline.from_pretrained(our_folder)), output(tiny))


def test_a_bin_file_that_would_run_code_is_refused(our_folder: Path, tmp_path: Path) -> None:
    file = our_folder / "unet" / WEIGHTS
    file.unlink()
    file.with_suffix(".bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    with pytest.raises(DifixError, match=r"\.bin cannot be read"):
        DifixPipeline.from_pretrained(our_folder)
    assert not (tmp_path / "ran").exists()


def test_weights_load_in_the_requested_number_format(our_folder: Path) -> None:
    pipeline = DifixPipeline.from_pretrained(our_folder, torch_dtype=torch.bfloat16)
    assert {p.dtype for part in (pipeline.vae, pipeline.unet) for p in part.parameters()} == {torch.bfloat16}
    assert output(pipeline).dtype == torch.float32


def test_a_network_may_be_saved_over_the_folder_it_came_from(our_folder: Path) -> None:
    pipeline = DifixPipeline.from_pretrained(our_folder)
    expected = output(pipeline)
    pipeline.save_pretrained(our_folder)
    assert torch.equal(output(pipeline), expected)
    assert torch.equal(output(DifixPipeline.from_pretrained(our_folder)), expected)


def test_a_loaded_network_can_be_trained(our_folder: Path) -> None:
    pipeline = DifixPipeline.from_pretrained(our_folder)
    pipeline.denoise(IMAGE[:, None] * 2 - 1).mean().backward()
    assert pipeline.vae.decoder.get_parameter("skip_conv_1.weight").grad.abs().sum() > 0
    assert all(p.grad is not None for p in pipeline.unet.parameters())


@pytest.mark.parametrize("file", ["unet/config.json", f"vae/{WEIGHTS}", "scheduler/scheduler_config.json"])
def test_files_missing_after_an_interrupted_download_are_named(our_folder: Path, file: str) -> None:
    (our_folder / file).unlink()
    with pytest.raises(DifixError, match=rf"ours is incomplete: .*ours lacks {file}"):
        DifixPipeline.from_pretrained(our_folder)


def test_neither_text_encoder_nor_embedding_is_incomplete(our_folder: Path) -> None:
    (our_folder / "prompt_embedding.safetensors").unlink()
    with pytest.raises(DifixError, match=r"lacks text_encoder/config\.json, text_encoder/model\.safetensors, tok"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_damaged_text_encoder_is_reported(text_encoder_folder: Path) -> None:
    (text_encoder_folder / "text_encoder" / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(DifixError, match=r"the text encoder of .* cannot be read"):
        DifixPipeline.from_pretrained(text_encoder_folder)


def test_more_than_five_missing_keys_are_abbreviated(our_folder: Path) -> None:
    file = our_folder / "vae" / WEIGHTS
    state = {key: value.clone() for key, value in load_file(file).items()}
    encoder = [key for key in state if key.startswith("encoder.")]
    save_file({key: value for key, value in state.items() if key not in encoder}, file)
    with pytest.raises(DifixError, match=rf"missing (encoder\.\S+, ){{4}}encoder\.\S+ and {len(encoder) - 5} more"):
        DifixPipeline.from_pretrained(our_folder)


def test_plain_stable_diffusion_is_refused_because_it_lacks_skips(training_checkpoint: tuple[Path, Path]) -> None:
    with pytest.raises(DifixError, match=r"missing decoder\.skip_conv_1\.weight"):
        DifixPipeline.from_pretrained(training_checkpoint[1])


def test_weights_of_another_shape_are_named(our_folder: Path) -> None:
    edit_config(our_folder / "unet" / "config.json", cross_attention_dim=12)
    with pytest.raises(DifixError, match=r"attn2\.to_k\.weight has shape \(16, 8\) instead of \(16, 12\)"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_lora_of_another_shape_is_named(unmerged_folder: Path) -> None:
    file = unmerged_folder / "vae" / WEIGHTS
    state = {key: value.clone() for key, value in load_file(file).items()}
    save_file(state | {"decoder.conv_out.lora_A.vae_skip.weight": torch.zeros(4, 9, 3, 3)}, file)
    with pytest.raises(DifixError, match=r"LoRA of decoder\.conv_out does not fit"):
        DifixPipeline.from_pretrained(unmerged_folder)


def test_a_network_that_predicts_something_else_is_refused(our_folder: Path) -> None:
    edit_config(our_folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(DifixError, match="v_prediction"):
        DifixPipeline.from_pretrained(our_folder)


def test_an_embedding_of_another_width_is_refused(our_folder: Path) -> None:
    save_file({"prompt_embedding": torch.zeros(1, 5, 9)}, our_folder / "prompt_embedding.safetensors")
    with pytest.raises(DifixError, match=r"prompt embedding is \(1, 5, 9\); the UNet takes \(1, n, 8\)"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_pickle_of_something_else_is_refused(our_folder: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pkl")
    with pytest.raises(DifixError, match="lacks state_dict_unet, state_dict_vae"):
        DifixPipeline.from_pretrained(tmp_path / "other.pkl", base=our_folder)


def test_a_checkpoint_without_a_listed_lora_is_incomplete(training_checkpoint: tuple[Path, Path]) -> None:
    checkpoint, base = training_checkpoint
    content = torch.load(checkpoint, weights_only=True)
    for half in "AB":
        del content["state_dict_vae"][f"decoder.conv_out.lora_{half}.vae_skip.weight"]
    torch.save(content, checkpoint)
    with pytest.raises(DifixError, match=r"model\.pkl is incomplete: it lists a LoRA of decoder\.conv_out"):
        DifixPipeline.from_pretrained(checkpoint, base=base)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_ignored(tiny: DifixPipeline, our_folder: Path, prefix: str) -> None:
    for part in ("vae", "unet"):
        file = our_folder / part / WEIGHTS
        save_file({prefix + key: value.clone() for key, value in load_file(file).items()}, file)
    assert torch.equal(output(DifixPipeline.from_pretrained(our_folder)), output(tiny))


def test_a_fixer_uses_a_training_checkpoint_with_its_base(training_checkpoint: tuple[Path, Path]) -> None:
    checkpoint, base = training_checkpoint
    render = torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(0))
    fixer = LazyFixer(DifixConfig(model=str(checkpoint), base=str(base)), "cpu")
    assert fixer.fetch().source == str(checkpoint)
    (fixed,) = fixer.clean([render])
    expected = DifixPipeline.from_pretrained(checkpoint, base=base)(
        render.permute(2, 0, 1)[None], output_type="pt"
    ).images
    torch.testing.assert_close(fixed, expected[0].permute(1, 2, 0))
    with pytest.raises(DifixError, match="as base"):
        LazyFixer(DifixConfig(model=str(checkpoint)), "cpu").fetch()


def pickled_code(file: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(file.with_name("ran"))))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, r"there is no training checkpoint .*model\.pkl: correct the name"),
        (lambda file: file.write_bytes(b"garbage"), r"model\.pkl cannot be read as plain weights"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1000]), r"model\.pkl cannot be read as plain weights"),
        (pickled_code, r"model\.pkl cannot be read as plain weights"),
        (lambda file: torch.save({"weights": torch.zeros(1)}, file), "lacks state_dict_unet, state_dict_vae"),
    ],
    ids=["missing", "garbage", "cut off", "code", "something else"],
)
def test_a_fixer_refuses_a_bad_training_checkpoint_in_one_sentence_before_training_starts(
    training_checkpoint: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    checkpoint, base = training_checkpoint
    spoil(checkpoint)
    with pytest.raises(DifixError, match=sentence) as caught:
        LazyFixer(DifixConfig(model=str(checkpoint), base=str(base)), "cpu").fetch()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not (tmp_path / "ran").exists()


def test_a_training_checkpoint_in_torchs_old_format_loads(
    tiny: DifixPipeline, training_checkpoint: tuple[Path, Path]
) -> None:
    checkpoint, base = training_checkpoint
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content, checkpoint, _use_new_zipfile_serialization=False)
    fixer = LazyFixer(DifixConfig(model=str(checkpoint), base=str(base)), "cpu")
    assert fixer.fetch().source == str(checkpoint)
    assert torch.equal(output(DifixPipeline.from_pretrained(checkpoint, base=base)), output(tiny))
