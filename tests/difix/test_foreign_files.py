"""Networks, pairs and checkpoints from untrusted sources: their code never runs, and any content is read or refused."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from damaged_json import ANYTHING, damaged_json
from foreign_code import Evil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.state_dicts import merge_lora
from difix3d_ns.difix.training.pairs import load_pair, read_pairs

FUZZ = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_code_that_the_configs_of_a_folder_name_does_not_run(our_folder: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: pass\n"
    for file in ("evil.py", "pipeline.py", "vae/evil.py", "unet/evil.py", "scheduler/evil.py", "__init__.py"):
        (our_folder / file).write_text(code)
    foreign = {
        "_class_name": ["evil", "Evil"],
        "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        "custom_pipeline": "pipeline",
        "trust_remote_code": True,
    }
    index = our_folder / "model_index.json"
    parts = {part: ["evil", "Evil"] for part in ("vae", "unet", "scheduler", "text_encoder", "../evil")}
    index.write_text(json.dumps({**json.loads(index.read_text()), **foreign, **parts}))
    assert DifixPipeline.from_pretrained(our_folder).unet is not None
    for part in ("vae/config.json", "unet/config.json", "scheduler/scheduler_config.json"):
        config = our_folder / part
        config.write_text(json.dumps({**json.loads(config.read_text()), **foreign}))
        with suppress(DifixError):
            DifixPipeline.from_pretrained(our_folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_weights_that_would_run_code_are_refused(our_folder: Path, tmp_path: Path, part: str) -> None:
    (our_folder / part / "diffusion_pytorch_model.safetensors").unlink()
    (our_folder / part / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}))
    with pytest.raises(DifixError, match=rf"{part}.*cannot be read"):
        DifixPipeline.from_pretrained(our_folder)
    assert not (tmp_path / "ran").exists()


def test_a_text_encoder_that_would_run_code_is_refused(text_encoder_folder: Path, tmp_path: Path) -> None:
    folder = text_encoder_folder / "text_encoder"
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(DifixError, match="text encoder"):
        DifixPipeline.from_pretrained(text_encoder_folder)
    assert not (tmp_path / "ran").exists()


PARTS_WITH_SETTINGS = ("model_index.json", "vae/config.json", "unet/config.json", "scheduler/scheduler_config.json")


@FUZZ
@given(st.data())
def test_settings_of_any_content_are_loaded_or_refused(our_folder: Path, data: st.DataObject) -> None:
    file = our_folder / data.draw(st.sampled_from(PARTS_WITH_SETTINGS))
    valid = file.read_text()
    file.write_text(json.dumps(data.draw(damaged_json(json.loads(valid)))))
    try:
        DifixPipeline.from_pretrained(our_folder)
    except DifixError as error:
        assert str(error)
    finally:
        file.write_text(valid)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("vae/config.json", "block_out_channels", [10**9] * 4),
        ("vae/config.json", "layers_per_block", 10**9),
        ("vae/config.json", "down_block_types", ["DownEncoderBlock2D"] * 10**5),
        ("unet/config.json", "block_out_channels", [10**400] * 4),
        ("unet/config.json", "transformer_layers_per_block", [[10**9]] * 4),
        ("unet/config.json", "cross_attention_dim", 10**15),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**12),
        ("text_encoder/config.json", "num_hidden_layers", 10**9),
        ("text_encoder/config.json", "vocab_size", 10**12),
    ],
)
def test_a_huge_network_is_refused_before_it_is_built(
    text_encoder_folder: Path, file: str, key: str, value: object
) -> None:
    config = text_encoder_folder / file
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    with pytest.raises(DifixError, match=rf"{config.name} is refused: its {key} .* no Difix network"):
        DifixPipeline.from_pretrained(text_encoder_folder)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_a_network_larger_than_its_weights_is_refused_before_it_is_allocated(our_folder: Path, part: str) -> None:
    config = our_folder / part / "config.json"
    sizes = json.loads(config.read_text())
    sizes["block_out_channels"] = [2**20] * len(sizes["block_out_channels"])
    config.write_text(json.dumps(sizes))
    with pytest.raises(DifixError, match=r"no Difix network|not those of a Difix network"):
        DifixPipeline.from_pretrained(our_folder)


def test_a_tokenizer_without_a_limit_pads_to_the_text_encoders_length(text_encoder_folder: Path) -> None:
    expected = DifixPipeline.from_pretrained(text_encoder_folder).prompt_embedding
    config = text_encoder_folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 10**12}))
    assert torch.equal(DifixPipeline.from_pretrained(text_encoder_folder).prompt_embedding, expected)


TENSORS = st.sampled_from([(), (1,), (2, 3), (2, 3, 1, 1), (0, 3), (4, 2)]).map(torch.zeros)
KEYS = st.sampled_from(
    [
        *("m.weight", "m.base_layer.weight", "m.lora_A.weight", "m.lora_B.weight", "m.lora_A.vae_skip.weight", ".", ""),
        *("m.lora_B.vae_skip.weight", "decoder.mid_block.attentions.0.query.weight", "module.m.weight", "m.bias"),
    ]
)


@FUZZ
@given(st.dictionaries(KEYS, TENSORS))
def test_weights_of_any_keys_and_shapes_are_merged_or_refused(state: dict[str, torch.Tensor]) -> None:
    try:
        merged = merge_lora(state)
    except DifixError:
        return
    assert not [key for key in merged if "lora" in key or "base_layer" in key]


@FUZZ
@given(st.data())
def test_training_checkpoints_of_any_content_are_read_or_refused(
    training_checkpoint: tuple[Path, Path], data: st.DataObject
) -> None:
    checkpoint, base = training_checkpoint
    content = torch.load(checkpoint)
    key = data.draw(st.sampled_from([*content, None]))
    part = data.draw(ANYTHING | st.dictionaries(KEYS, TENSORS | st.integers()))
    content = part if key is None else {**content, key: part}
    damaged = checkpoint.with_name("damaged.pkl")
    torch.save(content, damaged)
    try:
        DifixPipeline.from_pretrained(damaged, base=base)
    except DifixError as error:
        assert str(error)


@FUZZ
@given(st.data())
def test_pairs_of_any_content_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    entry = {"image": "a.png", "target_image": "b.png", "ref_image": "../../c.png", "prompt": "remove degradation"}
    valid = {"train": {"../../../one": entry, "two": {**entry, "ref_image": None}}, "test": {}}
    (tmp_path / "pairs.json").write_text(json.dumps(data.draw(damaged_json(valid))))
    try:
        pairs = read_pairs(tmp_path / "pairs.json", "train")
    except DifixError as error:
        assert "pairs.json" in str(error)
        return
    for pair in pairs:
        with pytest.raises(DifixError, match="cannot be read"):
            load_pair(pair)
