"""The benchmark of the progressive update: its oracle, its runs, its report and its expectations."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks import progressive
from benchmarks.oracle_fixer import difix3d_mini_oracle, photo_weights
from benchmarks.progressive import BenchmarkConfig, metrics_of, runs_of, train_and_evaluate
from benchmarks.progressive_report import failed_expectations, means, read_results, table, write_report
from cameras.scenes_of_poses import ring
from PIL import Image
from training_runs import start_loop

from difix3d_ns.cameras.poses import step_towards

RESULTS = {
    "scene sparse3": {
        "none": {"psnr": 15.0, "ssim": 0.5},
        "published-embedded": {"psnr": 14.0, "ssim": 0.4},
        "ours-embedded": {"psnr": 15.5, "ssim": 0.55},
        "published-oracle": {"psnr": 17.0, "ssim": 0.6},
        "ours-oracle": {"psnr": 17.25, "ssim": 0.625, "lpips": 0.25},
    }
}


def test_the_oracle_blends_the_photo_in_and_returns_it_at_the_target() -> None:
    photos, targets = ring(4, 0), ring(4, 1).roll(1, dims=0)
    poses, weights = photos, [photo_weights(photos, photos, targets)]
    for _ in range(40):
        poses = step_towards(poses, targets, 0.1)
        weights.append(photo_weights(photos, poses, targets))
    shares = torch.stack(weights)
    assert (shares[0] == 0).all() and (shares[-1] == 1).all() and (shares.diff(dim=0) >= 0).all()
    assert ((shares > 0) & (shares < 1)).any()


def test_with_the_oracle_views_that_have_arrived_are_the_photos(banana: Path, tmp_path: Path) -> None:
    config = deepcopy(difix3d_mini_oracle.config.pipeline)
    config.datamanager.data = banana
    config.datamanager.camera_res_scale_factor = 0.25
    config.datamanager.dataparser.downscale_factor = 1
    config.model.min_initial_gaussians = 0
    pipeline = config.setup(device="cpu")
    config = pipeline.config
    config.match_colors, config.trust.check = False, False
    loop = start_loop(pipeline, tmp_path)
    loop.fix(1)
    pipeline.eval()
    for view in pipeline.datamanager.pseudo_views.views:
        render = pipeline.model.get_outputs_for_camera(view.camera)["rgb"]
        photo = pipeline.datamanager.cached_eval[view.target]["image"][..., :3] / 255
        # The view has gone part of the way, so part of the photo is blended in.
        share = ((view.load().image / 255 - render) * (photo - render)).sum() / ((photo - render) ** 2).sum()
        assert 0.05 < share < 0.95
    for step in range(1, loop.walk.num_fixes_to_arrive + 1):
        loop.fix(step + 1)
    taught = {view.target: view.load().image for view in pipeline.datamanager.pseudo_views.views}
    photos = [data["image"] for data in pipeline.datamanager.cached_eval]
    assert len(taught) == len(photos) == 5
    assert all(torch.equal(taught[target], photo[..., :3]) for target, photo in enumerate(photos))
    assert all(view.load().reliability == 1.0 for view in pipeline.datamanager.pseudo_views.views)


def test_every_scene_is_trained_without_fixes_and_with_both_schedules_and_all_fixers(tmp_path: Path) -> None:
    scenes = (tmp_path / "a" / "transforms_sparse3.json", tmp_path / "b" / "transforms.json")
    names = [run.name for run in runs_of(BenchmarkConfig(tmp_path, scenes))]
    assert len(names) == len(set(names)) == 14
    assert {"a-sparse3/none/seed-42", "a-sparse3/ours-oracle/seed-42", "b/published-embedded/seed-42"} <= set(names)
    again = BenchmarkConfig(tmp_path, scenes, fixers=("embedded",), schedules=("ours",))
    assert [run.name for run in runs_of(again)] == ["a-sparse3/ours-embedded/seed-42", "b/ours-embedded/seed-42"]
    (identity, _) = runs_of(replace(again, fixers=("identity",)))
    assert "identity" in identity.options and identity.method == "difix3d-mini"
    seeds = [run.seed for run in runs_of(replace(again, seeds=(1, 2)))]
    assert seeds == [1, 1, 2, 2]


def test_finished_runs_are_skipped_unless_their_settings_differ(
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


def test_the_report_can_be_read_again_and_marks_missing_values(tmp_path: Path) -> None:
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


def test_runs_with_several_seeds_are_averaged_with_their_spread() -> None:
    runs = {
        "1": {"psnr": 10.0, "ssim": 0.25, "psnr_enhanced": 11.0, "ssim_enhanced": 0.5},
        "2": {"psnr": 12.0, "ssim": 0.75, "psnr_enhanced": 14.0, "ssim_enhanced": 0.5, "lpips": 0.5},
    }
    mean = means({"a": {"ours-embedded": runs, "ours-oracle": {"1": {"psnr": 20.0, "ssim": 0.5}}}})
    assert table(mean).endswith("| a | 11.00 ± 1.41 / 0.500 / - | 20.00 / 0.500 / - |\n")
    enhanced = table(mean, "_enhanced")
    assert "oracle" not in enhanced and enhanced.endswith("| a | 12.50 ± 2.12 / 0.500 / - |\n")


@pytest.mark.parametrize(
    ("variant", "psnr", "expected"),
    [("ours-oracle", 16.9, "0.10 dB below"), ("ours-embedded", 14.8, "cost 0.20 dB"), ("ours-embedded", 14.95, None)],
)
def test_a_harmed_scene_is_reported(variant: str, psnr: float, expected: str | None) -> None:
    results = deepcopy(RESULTS)
    assert failed_expectations(results) == []
    results["scene sparse3"][variant]["psnr"] = psnr
    sentences = failed_expectations(results)
    assert len(sentences) == (expected is not None)
    assert expected is None or expected in sentences[0]


def test_metrics_are_taken_from_the_evaluation_without_others() -> None:
    evaluation = {"results": {"psnr": 20.0, "psnr_std": 1.0, "ssim": 0.5, "psnr_enhanced": 21.0, "fps": 3.0}}
    assert metrics_of(evaluation) == {"psnr": 20.0, "ssim": 0.5, "psnr_enhanced": 21.0}
    assert table({"a": {"none": metrics_of(evaluation)}}).endswith("| a | 20.00 / 0.500 / - |\n")
