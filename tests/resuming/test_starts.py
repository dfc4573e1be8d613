"""What a run starts from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from difix3d_ns.errors import Difix3DError
from difix3d_ns.resuming.run_record import RunRecord
from difix3d_ns.resuming.starts import (
    Start,
    require_gaussians,
    require_same_frame,
    require_same_modules,
    revision_of_earlier_run,
    start_of_run,
)

OURS = "method_name: difix3d\npipeline: !!python/object:difix3d_ns.pipeline.Difix3DPipelineConfig\n"
SPLATFACTO = "method_name: splatfacto\npipeline: !!python/object:nerfstudio.pipelines.base_pipeline.VanillaPipeline\n"


def trainer(folder: Path | None, step: int, checkpoint: Path | None = None) -> SimpleNamespace:
    load_dir = folder / "nerfstudio_models" if folder else None
    config = SimpleNamespace(load_dir=load_dir, load_checkpoint=checkpoint, max_num_iterations=100)
    return SimpleNamespace(_start_step=step, config=config)


def test_from_scratch_the_schedule_counts_from_the_first_step() -> None:
    start = start_of_run(trainer(None, 0))
    assert (start.step, start.end, start.origin, start.run_folder) == (0, 100, 0, None)


@pytest.mark.parametrize(
    ("config", "method", "origin"),
    [
        (OURS + "  fix_novel_views: true\n", "difix3d", 0),
        (OURS + "  fix_novel_views: false\n", "difix3d", 30_000),
        (SPLATFACTO, "splatfacto", 30_000),
        (None, "unknown", 30_000),
    ],
)
def test_the_schedule_continues_only_after_a_run_that_fixes_novel_views(
    tmp_path: Path, config: str | None, method: str, origin: int
) -> None:
    if config:
        (tmp_path / "config.yml").write_text(config)
    for given in (trainer(tmp_path, 30_000), trainer(None, 30_000, tmp_path / "nerfstudio_models" / "a.ckpt")):
        start = start_of_run(given)
        assert (start.step, start.end, start.origin, start.run_folder) == (30_000, 30_100, origin, tmp_path)
        assert start.earlier_run is not None and start.earlier_run.method == method
        checkpoint = "checkpoint" if method == "unknown" else f"{method} checkpoint"
        sentence = start.describe(True)
        assert f"Starts from the {checkpoint} of step 29999" in sentence and "to step 30100" in sentence


def test_the_schedule_continues_after_a_run_with_pseudo_views_even_without_its_config(tmp_path: Path) -> None:
    (tmp_path / "pseudo_views" / "step-000000020").mkdir(parents=True)
    assert start_of_run(trainer(tmp_path, 30)).origin == 0


def test_a_resumed_run_keeps_the_schedule_that_counts_from_a_splatfacto_run(tmp_path: Path) -> None:
    first, second = tmp_path / "splatfacto", tmp_path / "difix3d"
    first.mkdir()
    (first / "config.yml").write_text(SPLATFACTO)
    start_of_run(trainer(first, 30_000)).save(second, RunRecord("difix3d", fixes_novel_views=True))
    resumed = start_of_run(trainer(second, 30_040))
    assert (resumed.step, resumed.origin) == (30_040, 30_000)
    assert "schedule of fixes continues" in resumed.describe(True)


@pytest.mark.parametrize("has_fixed", [True, False])
def test_a_resumed_run_without_fixes_announces_no_schedule(tmp_path: Path, has_fixed: bool) -> None:
    start_of_run(trainer(None, 0)).save(tmp_path, RunRecord("difix3d", fixes_novel_views=has_fixed))
    sentence = start_of_run(trainer(tmp_path, 30)).describe(fixes_novel_views=False)
    assert "difix3d checkpoint of step 29" in sentence and "fixes" not in sentence


def start_from(folder: Path | None) -> Start:
    return Start(step=10, end=20, run_folder=folder, earlier_run=RunRecord("splatfacto"), origin=10)


@pytest.mark.parametrize(("shift", "scale", "fits"), [(0.0, 0.5, True), (0.1, 0.5, False), (0.0, 0.4, False)])
def test_gaussians_of_a_scene_that_was_placed_differently_are_refused(
    tmp_path: Path, shift: float, scale: float, fits: bool
) -> None:
    transform = torch.eye(4)[:3]
    transform[0, 3] = shift
    saved = {"transform": torch.eye(4)[:3].tolist(), "scale": 0.5}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(saved))
    if fits:
        require_same_frame(start_from(tmp_path), transform, scale)
    else:
        with pytest.raises(Difix3DError, match="placed or scaled the scene differently"):
            require_same_frame(start_from(tmp_path), transform, scale)


def test_a_checkpoint_without_its_run_is_accepted(tmp_path: Path) -> None:
    require_same_frame(start_from(tmp_path), torch.eye(4)[:3], 1.0)
    require_same_frame(start_from(None), torch.eye(4)[:3], 1.0)


def test_parameters_that_this_run_lacks_are_reported_with_their_option() -> None:
    own = {"camera_optimizer.pose_adjustment": torch.zeros(5, 6)}
    require_same_modules({"_model.gauss_params.means": torch.zeros(1, 3)}, own)
    require_same_modules({"_model.camera_optimizer.pose_adjustment": torch.zeros(5, 6)}, own)
    with pytest.raises(Difix3DError, match="same training photos"):
        require_same_modules({"_model.camera_optimizer.pose_adjustment": torch.zeros(4, 6)}, own)
    with pytest.raises(Difix3DError, match=r"add --pipeline\.model\.camera-optimizer\.mode SO3xR3"):
        require_same_modules({"_model.module.camera_optimizer.pose_adjustment": torch.zeros(5, 6)}, {})
    with pytest.raises(Difix3DError, match=r"add --pipeline\.model\.use-bilateral-grid True"):
        require_same_modules({"_model.bil_grids.grids": torch.zeros(5, 12, 8, 16, 16)}, own)


@pytest.mark.parametrize("prefix", ["_model.", "_model.module.", "_model.gauss_params.", ""])
def test_gaussians_of_a_checkpoint_are_found(prefix: str) -> None:
    require_gaussians({f"{prefix}means": torch.zeros(1, 3)})
    with pytest.raises(Difix3DError, match="contains no Gaussians"):
        require_gaussians({f"{prefix}field.weight": torch.zeros(3)})


@pytest.mark.parametrize("revision", ["0" * 40, None])
def test_a_resumed_run_takes_the_revision_of_the_same_network(tmp_path: Path, revision: str | None) -> None:
    start_of_run(trainer(None, 0)).save(tmp_path, RunRecord("difix3d", True, "nvidia/difix_ref", revision))
    start = start_of_run(trainer(tmp_path, 30))
    assert revision_of_earlier_run(start, "nvidia/difix_ref") == revision
    assert revision_of_earlier_run(start, "nvidia/difix") is None
    assert revision_of_earlier_run(start_of_run(trainer(None, 0)), "nvidia/difix_ref") is None
