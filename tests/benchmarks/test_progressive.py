"""The benchmark of the progressive update: its oracle, what it reports and what it judges."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks import progressive
from benchmarks.oracle_fixer import OracleFixer, difix3d_mini_oracle, photo_weights
from benchmarks.progressive import BenchmarkConfig, metrics_of, runs_of, train_and_evaluate
from benchmarks.progressive_report import broken_promises, means, read_results, table, write_report
from cameras.scenes_of_poses import ring
from PIL import Image
from test_pipeline import start_run

from difix3d_ns.cameras.poses import step_towards
from difix3d_ns.fixing.difix_fixer import DifixConfig

RESULTS = {
    "scene sparse3": {
        "none": {"psnr": 15.0, "ssim": 0.5},
        "published-embedded": {"psnr": 14.0, "ssim": 0.4},
        "ours-embedded": {"psnr": 15.5, "ssim": 0.55},
        "published-oracle": {"psnr": 17.0, "ssim": 0.6},
        "ours-oracle": {"psnr": 17.25, "ssim": 0.625, "lpips": 0.25},
    }
}


def test_the_oracle_fades_the_photo_in_and_returns_it_at_the_target() -> None:
    photos, targets = ring(4, 0), ring(4, 1).roll(1, dims=0)
    poses, weights = photos, [photo_weights(photos, photos, targets)]
    for _ in range(40):
        poses = step_towards(poses, targets, 0.1)
        weights.append(photo_weights(photos, poses, targets))
    shares = torch.stack(weights)
    assert (shares[0] == 0).all() and (shares[-1] == 1).all() and (shares.diff(dim=0) >= 0).all()
    assert ((shares > 0) & (shares < 1)).any()

    render, photo = torch.rand(4, 5, 3), torch.rand(4, 5, 3)
    for share in shares[:, 0]:
        (fixed,) = OracleFixer(DifixConfig(), "cpu").blend([render], [photo], share[None])
        assert torch.allclose(fixed, (1 - share) * render + share * photo, atol=1e-6)


def test_the_oracles_pipeline_teaches_the_photos_once_the_views_arrive(banana: Path, tmp_path: Path) -> None:
    config = deepcopy(difix3d_mini_oracle.config.pipeline)
    config.datamanager.data = banana
    config.datamanager.camera_res_scale_factor = 0.25
    config.datamanager.dataparser.downscale_factor = 1
    config.model.min_initial_gaussians = 0
    pipeline = config.setup(device="cpu")
    start_run(pipeline, tmp_path)
    for step in range(pipeline._walk.num_fixes_to_arrive):
        pipeline.fix_views(step + 1)
    taught = {view.target: view.load().image for view in pipeline.datamanager.pseudo_views.views}
    photos = [data["image"] for data in pipeline.datamanager.cached_eval]
    assert len(taught) == len(photos) == 5
    assert all(torch.equal(taught[target], photo[..., :3]) for target, photo in enumerate(photos))
    assert all(view.load().reliability == 1.0 for view in pipeline.datamanager.pseudo_views.views)


def test_every_scene_is_trained_without_fixes_and_by_both_schedules_with_both_fixers(tmp_path: Path) -> None:
    scenes = (tmp_path / "a" / "transforms_sparse3.json", tmp_path / "b" / "transforms.json")
    names = [run.name for run in runs_of(BenchmarkConfig(tmp_path, scenes))]
    assert len(names) == len(set(names)) == 10
    assert {"a-sparse3/none/seed-42", "a-sparse3/ours-oracle/seed-42", "b/published-embedded/seed-42"} <= set(names)
    again = BenchmarkConfig(tmp_path, scenes, fixers=("embedded",), schedules=("ours",))
    assert [run.name for run in runs_of(again)] == ["a-sparse3/ours-embedded/seed-42", "b/ours-embedded/seed-42"]
    seeds = [run.seed for run in runs_of(replace(again, seeds=(1, 2)))]
    assert seeds == [1, 1, 2, 2]


def test_what_is_finished_stays_and_a_run_of_other_settings_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def train_or_evaluate(command: list[str], **_) -> SimpleNamespace:
        commands.append(command)
        if command[0] == "ns-eval":
            Path(command[-1]).write_text(json.dumps({"results": {"psnr": 20.0, "ssim": 0.5}}))
        return SimpleNamespace(returncode=0 if "--broken" not in command else 3)

    monkeypatch.setattr(progressive.subprocess, "run", train_or_evaluate)
    config = BenchmarkConfig(tmp_path, steps=10)
    run = runs_of(config)[-1]
    assert (run.schedule, run.fixer) == ("ours", "embedded")
    for _ in range(2):
        assert train_and_evaluate(run, config) == {"psnr": 20.0, "ssim": 0.5}
        assert [command[0] for command in commands] == ["ns-train", "ns-eval"]
    with pytest.raises(SystemExit, match="other settings"):
        train_and_evaluate(run, replace(config, steps=20))
    monkeypatch.setattr(progressive, "embedded_network", lambda: "another")
    with pytest.raises(SystemExit, match="another embedded network"):
        train_and_evaluate(run, config)
    train_and_evaluate(run, replace(config, again=True))
    assert len(commands) == 4
    monkeypatch.setitem(progressive.OPTIONS, "none", ("--broken",))
    with pytest.raises(SystemExit, match=r"ns-train failed with exit code 3: see .*log\.txt"):
        train_and_evaluate(runs_of(config)[0], config)
    assert len(commands) == 5


def test_the_report_can_be_read_again_and_says_what_is_missing(tmp_path: Path) -> None:
    full_row = {variant: {"42": metrics} for variant, metrics in RESULTS["scene sparse3"].items()}
    results = {"scene sparse3": full_row, "scene biased3": {"none": {"42": {"psnr": 12.0, "ssim": 0.25}}}}
    write_report(results, tmp_path)
    assert read_results(tmp_path) == results
    assert means(results)["scene sparse3"] == RESULTS["scene sparse3"]
    header, _, full, begun = (tmp_path / "table.md").read_text().splitlines()[:4]
    assert header.count("|") == full.count("|") == begun.count("|") == 7
    assert "| 15.00 / 0.500 / - |" in full and full.endswith("| 17.25 / 0.625 / 0.250 |")
    assert begun == "| scene biased3 | 12.00 / 0.250 / - |  |  |  |  |"
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > 1000 and len(figure.convert("RGB").getcolors(1 << 20) or []) > 4


def test_runs_of_several_seeds_are_averaged_and_their_spread_is_told() -> None:
    runs = {
        "1": {"psnr": 10.0, "ssim": 0.25, "psnr_enhanced": 11.0, "ssim_enhanced": 0.5},
        "2": {"psnr": 12.0, "ssim": 0.75, "psnr_enhanced": 14.0, "ssim_enhanced": 0.5, "lpips": 0.5},
    }
    mean = means({"a": {"ours-embedded": runs, "ours-oracle": {"1": {"psnr": 20.0, "ssim": 0.5}}}})
    assert table(mean).endswith("| a | 11.00 ± 1.41 / 0.500 / - | 20.00 / 0.500 / - |\n")
    enhanced = table(mean, "_enhanced")
    assert "oracle" not in enhanced and enhanced.endswith("| a | 12.50 ± 2.12 / 0.500 / - |\n")


@pytest.mark.parametrize(
    ("variant", "psnr", "told"),
    [("ours-oracle", 16.9, "0.10 dB below"), ("ours-embedded", 14.8, "cost 0.20 dB"), ("ours-embedded", 14.95, None)],
)
def test_a_scene_that_is_harmed_is_told(variant: str, psnr: float, told: str | None) -> None:
    results = deepcopy(RESULTS)
    assert broken_promises(results) == []
    results["scene sparse3"][variant]["psnr"] = psnr
    sentences = broken_promises(results)
    assert len(sentences) == (told is not None)
    assert told is None or told in sentences[0]


def test_metrics_are_those_of_the_evaluation_and_no_others() -> None:
    evaluation = {"results": {"psnr": 20.0, "psnr_std": 1.0, "ssim": 0.5, "psnr_enhanced": 21.0, "fps": 3.0}}
    assert metrics_of(evaluation) == {"psnr": 20.0, "ssim": 0.5, "psnr_enhanced": 21.0}
    assert table({"a": {"none": metrics_of(evaluation)}}).endswith("| a | 20.00 / 0.500 / - |\n")
