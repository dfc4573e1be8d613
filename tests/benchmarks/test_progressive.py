"""The benchmark of the progressive update: its oracle and its runs."""

from __future__ import annotations

import json
import math
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks import progressive_runs
from benchmarks.oracle_fixer import difix3d_mini_oracle, photo_weights
from benchmarks.progressive import BenchmarkConfig, coverage_of, results_of, runs_of
from benchmarks.progressive_coverage import Coverage, coverage_file, source_of_split
from benchmarks.progressive_measure import PerceptualDistance
from benchmarks.progressive_runs import metrics_of, train_and_evaluate
from cameras.scenes_of_poses import ring
from difix.random_vgg import write_random_vgg
from PIL import Image
from training_runs import start_loop

from difix3d_ns.cameras.poses import step_towards


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
    config.few_photos = (
        "no"  # else the views' holes have another background than the renders that they are compared with
    )
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
    assert "identity" in identity.setting.options and identity.setting.method == "difix3d-mini"
    seeds = [run.seed for run in runs_of(replace(again, seeds=(1, 2)))]
    assert seeds == [1, 1, 2, 2]


def test_any_setting_can_be_measured_as_a_variant(tmp_path: Path) -> None:
    config = BenchmarkConfig(tmp_path, (tmp_path / "a" / "transforms.json",), fixers=(), schedules=("none",))
    given = ("far=--pipeline.difix.model 'a b'", "far-oracle=difix3d-mini-oracle --x 1", "plain=")
    none, far, oracle, plain = runs_of(replace(config, variants=given))
    assert [run.name for run in (none, far)] == ["a/none/seed-42", "a/far/seed-42"]
    assert far.setting.options == ("--pipeline.difix.model", "a b") and far.setting.method == "difix3d-mini"
    assert oracle.setting.options == ("--x", "1") and oracle.setting.method == "difix3d-mini-oracle"
    assert plain.setting.options == () and plain.setting.uses_network and not oracle.setting.uses_network
    for wrong, expected in (("--x 1", "NAME=OPTIONS"), ("a/b=", "NAME=OPTIONS"), ("none=--x 1", "none is used twice")):
        with pytest.raises(SystemExit, match=expected):
            runs_of(replace(config, variants=(wrong,)))


def test_scenes_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    scene = tmp_path / "1" / "a" / "transforms.json"
    assert len(runs_of(BenchmarkConfig(tmp_path, (scene, scene), fixers=()))) == 1
    with pytest.raises(SystemExit, match="have one name, a"):
        runs_of(BenchmarkConfig(tmp_path, (scene, tmp_path / "2" / "a" / "transforms.json")))


@pytest.fixture
def coverage(tmp_path: Path) -> Coverage:
    """A held-out photo of which the left half is covered."""
    mask = torch.zeros(16, 24, 1, dtype=torch.bool)
    mask[:, :12] = True
    return Coverage((str(tmp_path / "photo.jpg"),), (mask,), "source")


class Commands:
    """Stands in for `ns-train` and `ns-eval`: writes metrics that depend on the seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.running, self.most_running = 0, 0
        monkeypatch.setattr(progressive_runs.subprocess, "run", self)

    def __call__(self, command: list[str], env: dict[str, str], **_) -> SimpleNamespace:
        assert env["OMP_NUM_THREADS"] == "1"
        self.names.append(command[0])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        time.sleep(0.05)
        if command[0] == "ns-eval":
            evaluation, pictures = Path(command[4]), Path(command[6])
            seed = float(evaluation.parent.name.removeprefix("seed-"))
            evaluation.write_text(json.dumps({"results": {"psnr": seed, "ssim": 0.5}}))
            pictures.mkdir()
            picture = Image.new("RGB", (48, 16))
            picture.paste((51, 51, 51), (24, 0, 48, 16))  # an error of 0.2
            picture.save(pictures / "eval_img_0000.png")
        self.running -= 1
        return SimpleNamespace(returncode=0 if "--broken" not in command else 3)


def test_finished_runs_are_skipped_unless_their_settings_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: Coverage
) -> None:
    commands = Commands(monkeypatch)
    run = runs_of(BenchmarkConfig(tmp_path, steps=10))[-1]
    assert run.setting.name == "ours-embedded"
    for _ in range(2):
        metrics = train_and_evaluate(run, tmp_path, coverage)
        assert (metrics["psnr"], metrics["ssim"], metrics["share_covered"]) == (42.0, 0.5, 0.5)
        assert commands.names == ["ns-train", "ns-eval"]
    with pytest.raises(SystemExit, match="other settings"):
        train_and_evaluate(replace(run, steps=20), tmp_path, coverage)
    monkeypatch.setattr(progressive_runs, "embedded_network", lambda: "another")
    with pytest.raises(SystemExit, match="another embedded network"):
        train_and_evaluate(run, tmp_path, coverage)
    train_and_evaluate(run, tmp_path, coverage, again=True)
    assert len(commands.names) == 4


def test_finished_runs_are_measured_over_new_masks_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: Coverage
) -> None:
    commands = Commands(monkeypatch)
    run = runs_of(BenchmarkConfig(tmp_path))[0]
    psnr = train_and_evaluate(run, tmp_path, coverage)["psnr_covered"]
    assert psnr == pytest.approx(10 * math.log10(1 / 0.2**2), abs=0.01)
    assert (tmp_path / run.name / "renders.jpg").exists() and not (tmp_path / run.name / "pictures").exists()
    (tmp_path / run.name / "pictures.json").unlink()  # as in runs that were made before
    assert train_and_evaluate(run, tmp_path, coverage)["psnr_covered"] == psnr
    other = replace(coverage, masks=(torch.ones(16, 24, 1, dtype=torch.bool),))
    assert train_and_evaluate(run, tmp_path, other)["share_covered"] == 1.0
    assert commands.names == ["ns-train", "ns-eval", "ns-eval", "ns-eval"]


def test_the_perceptual_distance_is_measured_later_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: Coverage
) -> None:
    commands = Commands(monkeypatch)
    run = runs_of(BenchmarkConfig(tmp_path))[0]
    assert "vgg" not in train_and_evaluate(run, tmp_path, coverage)
    perceptual = PerceptualDistance(write_random_vgg(tmp_path / "vgg.safetensors"))
    found = train_and_evaluate(run, tmp_path, coverage, perceptual=perceptual)
    assert found["vgg"] > 0 and "vgg_enhanced" not in found and "psnr_covered" in found
    # It stays, also where it is not asked for.
    assert found == train_and_evaluate(run, tmp_path, coverage, perceptual=perceptual)
    assert found == train_and_evaluate(run, tmp_path, coverage)
    assert commands.names == ["ns-train", "ns-eval", "ns-eval"]


def test_runs_are_made_several_at_a_time_and_no_others_begin_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: Coverage
) -> None:
    commands = Commands(monkeypatch)
    config = BenchmarkConfig(tmp_path / "whole", fixers=("embedded",), schedules=("ours",), seeds=(1, 2, 3, 4), jobs=2)
    runs = runs_of(config)
    results = list(results_of(runs, {runs[0].scene: coverage}, config))
    assert {run.seed: metrics["psnr"] for run, metrics in results} == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert commands.most_running == 2
    commands.names.clear()
    config = replace(config, output_dir=tmp_path / "broken", fixers=(), schedules=(), variants=("broken=--broken",))
    with pytest.raises(SystemExit, match=r"ns-train failed with exit code 3: see .*log\.txt"):
        list(results_of(runs_of(config), {runs[0].scene: coverage}, config))
    assert len(commands.names) <= config.jobs


def test_the_coverage_of_all_splits_of_a_scene_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: Coverage
) -> None:
    calls: list[list[str]] = []

    def find(command: list[str], log_file: Path) -> None:
        calls.append(command)
        for split in map(Path, command[command.index("--splits") + 1 :]):
            source = source_of_split(split, 10)
            replace(coverage, source=source).write(coverage_file(log_file.parent, split))

    monkeypatch.setattr(progressive_runs, "call", find)
    splits = tuple(tmp_path / scene / f"transforms_{name}.json" for scene in "ab" for name in ("biased3", "sparse3"))
    for split in splits:
        split.parent.mkdir(exist_ok=True)
        split.write_text("{}")
    config = BenchmarkConfig(tmp_path / "out", splits, coverage_steps=10)
    for _ in range(2):
        found = coverage_of(config)
        assert list(found) == list(splits) and len(calls) == 2
        assert all(torch.equal(each.masks[0], coverage.masks[0]) for each in found.values())
    splits[-1].write_text('{"frames": []}')
    assert coverage_of(config) and len(calls) == 3


def test_metrics_are_taken_from_the_evaluation_without_others() -> None:
    evaluation = {"results": {"psnr": 20.0, "psnr_std": 1.0, "ssim": 0.5, "psnr_enhanced": 21.0, "fps": 3.0}}
    assert metrics_of(evaluation) == {"psnr": 20.0, "ssim": 0.5, "psnr_enhanced": 21.0}
