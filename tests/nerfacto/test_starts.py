"""Starts from nerfacto runs: settings that are taken over, and what does not fit."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods, method_configs
from small_nerfacto import make_nerfacto_pipeline, shrink

from difix3d_ns.nerfacto.starts import take_settings, take_settings_of_earlier_run
from difix3d_ns.resuming.run_record import settings_in_config

OURS = all_methods["difix3d-nerfacto"]


@pytest.fixture
def nerfacto_run(tmp_path: Path) -> Path:
    """The folder of a run of nerfacto-huge without appearance embeddings and with another camera optimizer."""
    config = deepcopy(method_configs["nerfacto-huge"])
    config.pipeline.model.use_appearance_embedding = False
    config.pipeline.model.camera_optimizer.mode = "SE3"
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    return tmp_path


def test_the_model_takes_the_settings_of_the_run_that_it_starts_from(nerfacto_run: Path) -> None:
    own, saved = deepcopy(OURS.pipeline.model), method_configs["nerfacto-huge"].pipeline.model
    taken = take_settings(own, OURS.pipeline.model, nerfacto_run)
    assert (own.hidden_dim, own.max_res, own.log2_hashmap_size) == (256, 8192, 21)
    assert own.num_proposal_samples_per_ray == (512, 512) and own.num_nerf_samples_per_ray == 64
    assert own.proposal_net_args_list == saved.proposal_net_args_list
    assert own.use_appearance_embedding is False and own.camera_optimizer.mode == "SE3"
    assert "--pipeline.model.hidden-dim 256" in taken and "--pipeline.model.camera-optimizer.mode SE3" in taken
    # What belongs to this training or machine stays.
    assert own.implementation == OURS.pipeline.model.implementation
    assert own.eval_num_rays_per_chunk == OURS.pipeline.model.eval_num_rays_per_chunk
    assert own.pseudo_view_loss_weight == 0.3


def test_what_a_user_typed_holds(nerfacto_run: Path) -> None:
    own = deepcopy(OURS.pipeline.model)
    own.hidden_dim, own.camera_optimizer.mode = 32, "off"
    take_settings(own, OURS.pipeline.model, nerfacto_run)
    assert (own.hidden_dim, own.camera_optimizer.mode, own.max_res) == (32, "off", 8192)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "pipeline: 3\n",
        "pipeline:\n  model:\n    hidden_dim: many\n    num_levels: [a]\n    max_res: !!python/tuple [1]\n",
        "pipeline:\n  model:\n    hidden_dim: !!python/object/apply:os.system ['false']\n",
    ],
)
def test_a_damaged_or_dangerous_config_changes_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.yml").write_text(text)
    own = deepcopy(OURS.pipeline.model)
    settings = settings_in_config(tmp_path, "pipeline", "model")
    assert not any(isinstance(value, int) for value in settings.values())
    take_settings(own, OURS.pipeline.model, tmp_path)
    assert own == OURS.pipeline.model


def test_the_changed_config_of_a_run_is_written_and_printed(
    nerfacto_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[int] = []
    pipeline = SimpleNamespace(model=deepcopy(OURS.pipeline.model))
    trainer = SimpleNamespace(
        load_dir=nerfacto_run / "nerfstudio_models",
        load_checkpoint=None,
        pipeline=pipeline,
        save_config=lambda: saved.append(1),
    )
    take_settings_of_earlier_run(trainer, OURS.pipeline.model)
    assert saved == [1] and pipeline.model.hidden_dim == 256
    printed = "".join(capsys.readouterr().out.split())
    assert "Modelsettingsof" in printed and "--pipeline.model.use-appearance-embeddingFalse" in printed
    take_settings_of_earlier_run(trainer, pipeline.model)
    assert saved == [1]
    take_settings_of_earlier_run(SimpleNamespace(load_dir=None, load_checkpoint=None), OURS.pipeline.model)


@pytest.fixture
def nerfacto_state(banana: Path, alexnet: None) -> dict[str, torch.Tensor]:
    """The state of nerfstudio's own nerfacto, as in a checkpoint."""
    config = deepcopy(method_configs["nerfacto"].pipeline)
    shrink(config.model)
    config.datamanager.data = banana
    config.datamanager.camera_res_scale_factor = 0.1
    return config.setup(device="cpu", test_mode="inference").state_dict()


def test_a_checkpoint_of_nerfacto_is_loaded_whole(banana: Path, nerfacto_state: dict[str, torch.Tensor]) -> None:
    pipeline = make_nerfacto_pipeline(banana, test_mode="inference")
    pipeline.load_pipeline(nerfacto_state, 10)
    own = pipeline.state_dict()
    assert any(name.startswith("_model.lpips.") for name in nerfacto_state)
    expected = {name: value for name, value in nerfacto_state.items() if not name.startswith("_model.lpips.")}
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in expected)


EMBEDDING = "_model.field.embedding_appearance.embedding.weight"
HASH_TABLE = "_model.field.mlp_base.model.0.hash_table"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.clear(), "no nerfacto field"),
        (lambda state: state.update({EMBEDDING: torch.zeros(5, 32)}), "of 5 training photos, and this run has 3"),
        (
            lambda state: state.update({EMBEDDING: torch.zeros(3, 128)}),
            r"add --pipeline\.model\.appearance-embed-dim 128",
        ),
        (lambda state: state.pop(EMBEDDING), r"add --pipeline\.model\.use-appearance-embedding False"),
        (
            lambda state: state.pop("_model.camera_optimizer.pose_adjustment"),
            r"add --pipeline\.model\.camera-optimizer\.mode off",
        ),
        (
            lambda state: state.update({"_model.field.max_res": torch.tensor(4096)}),
            r"--pipeline\.model\.max-res 4096, and this run has 64",
        ),
        (lambda state: state.pop(HASH_TABLE), "trained with tiny-cuda-nn"),
        (
            lambda state: state.update({"_model.field.mlp_head.layers.0.weight": torch.zeros(16, 31)}),
            r"mlp_head\.layers\.0\.weight has shape \(16, 31\)",
        ),
        (lambda state: state.pop("_model.proposal_networks.1.aabb"), r"lacks proposal_networks\.1\.aabb"),
        (lambda state: state.update({"_model.field.more": torch.zeros(1)}), r"has field\.more"),
    ],
)
def test_what_does_not_fit_is_named_in_one_sentence(banana: Path, change, sentence: str) -> None:
    pipeline = make_nerfacto_pipeline(banana, test_mode="inference")
    state = dict(pipeline.state_dict())
    change(state)
    with pytest.raises(SystemExit, match=sentence):
        pipeline.load_pipeline(state, 10)


def test_a_checkpoint_with_corrections_of_poses_asks_for_the_camera_optimizer(banana: Path) -> None:
    state = dict(make_nerfacto_pipeline(banana, test_mode="inference").state_dict())
    pipeline = make_nerfacto_pipeline(banana, test_mode="inference", model__camera_optimizer__mode="off")
    with pytest.raises(SystemExit, match=r"add --pipeline\.model\.camera-optimizer\.mode SO3xR3"):
        pipeline.load_pipeline(state, 10)
