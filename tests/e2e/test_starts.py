"""Runs that start from the checkpoint of another run, with different kinds of targets and references."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from e2e.commands import run
from nerfstudio.configs.method_configs import method_configs

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
SMALL = [
    *("--pipeline.datamanager.camera-res-scale-factor", 0.25, "--vis", "tensorboard"),
    *("--pipeline.difix.model", "embedded", "--max-num-iterations", 40),
]


def train(output_dir: Path, *arguments: object, expect: int = 0) -> tuple[Path, str]:
    """Trains on the small scene; returns the run's folder and the output without line breaks."""
    printed = run(
        "ns-train", "difix3d", "--data", BANANA, "--output-dir", output_dir, *SMALL, *arguments, expect=expect
    )
    folders = sorted(path.parent for path in output_dir.rglob("config.yml"))
    return folders[-1] if folders else output_dir, " ".join(printed.split())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 40 steps without fixes."""
    return train(tmp_path_factory.mktemp("plain"), "--pipeline.fix-novel-views", "False")[0]


@pytest.fixture(scope="module")
def splatfacto(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as splatfacto would write it after 30000 steps, with its config and LPIPS weights.

    Splatfacto itself trains with CUDA only.
    """
    folder = tmp_path_factory.mktemp("splatfacto")
    (folder / "nerfstudio_models").mkdir()
    shutil.copy(plain / "dataparser_transforms.json", folder)
    config = deepcopy(method_configs["splatfacto"])
    config.data = BANANA
    (folder / "config.yml").write_text(yaml.dump(config))
    (saved,) = (plain / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(saved, weights_only=False)
    state["step"] = 29_999
    state["pipeline"]["_model.lpips.net.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    for scheduler in state["schedulers"].values():
        scheduler["last_epoch"] = 30_000
    torch.save(state, folder / "nerfstudio_models" / "step-000029999.ckpt")
    return folder


def last_checkpoint(folder: Path) -> tuple[str, dict]:
    path = sorted((folder / "nerfstudio_models").glob("*.ckpt"))[-1]
    return path.name, torch.load(path, weights_only=False)


def test_a_splatfacto_run_continues_with_fixes_scheduled_after_its_last_step(splatfacto: Path, tmp_path: Path) -> None:
    folder, printed = train(
        tmp_path,
        *("--load-dir", splatfacto / "nerfstudio_models", "--pipeline.fix-steps", 7500, 15_000),
        *("--pipeline.targets.kind", "orbit", "--pipeline.targets.num-views", 4, "--pipeline.step-length", 9),
        *("--pipeline.references.choice", "overlap"),
    )
    assert "Starts from the splatfacto checkpoint of step 29999" in printed and "to step 30040." in printed
    assert "4 novel views are fixed before steps 30010, 30020 (2 fixes; they reach their targets after 1)" in printed
    assert re.findall(r"Step (\d+): fixed 4 novel views \(4 at", printed) == ["30010", "30020"]
    name, state = last_checkpoint(folder)
    assert name == "step-000030039.ckpt"
    _, before = last_checkpoint(splatfacto)
    means = "_model.gauss_params.means"
    assert (state["pipeline"][means] - before["pipeline"][means]).abs().max() > 0
    assert state["schedulers"]["means"]["last_epoch"] == 30_040


def test_a_single_splatfacto_checkpoint_starts_with_fresh_learning_rates_on_request(
    splatfacto: Path, tmp_path: Path
) -> None:
    path = {"camera_type": "perspective", "render_height": 64, "render_width": 96, "camera_path": []}
    for shift in (0.0, 0.4):
        pose = torch.eye(4)
        pose[2, 3] = 1.0 + shift
        path["camera_path"].append({"fov": 50, "aspect": 1.5, "camera_to_world": pose.flatten().tolist()})
    (tmp_path / "path.json").write_text(json.dumps(path))
    folder, printed = train(
        tmp_path / "run",
        *("--load-checkpoint", splatfacto / "nerfstudio_models" / "step-000029999.ckpt", "--load-scheduler", "False"),
        *("--pipeline.targets.kind", "camera-path", "--pipeline.targets.camera-path", tmp_path / "path.json"),
        *("--pipeline.fix-steps", 15_000, "--pipeline.step-length", 0.01),
    )
    assert re.search(r"That is too few to arrive: lengthen the steps with --pipeline\.step-length [\d.]+, or", printed)
    assert re.findall(r"Step (\d+): fixed 2 novel views \(0 at", printed) == ["30020"]
    _, state = last_checkpoint(folder)
    assert state["optimizers"]["means"]["param_groups"][0]["lr"] > 1.5e-4


def test_a_difix3d_run_without_fixes_continues_with_fixes_scheduled_after_its_last_step(
    plain: Path, tmp_path: Path
) -> None:
    _, printed = train(
        tmp_path,
        *("--load-dir", plain / "nerfstudio_models", "--pipeline.fix-steps", 15_000),
        *("--pipeline.targets.kind", "interpolate", "--pipeline.references.max-distance", 0.001),
    )
    assert "Starts from the difix3d checkpoint of step 39" in printed
    assert re.findall(r"Step (\d+): fixed 3 novel views", printed) == ["60"]


def test_few_photos_keep_early_novel_views_unless_the_run_starts_from_a_trained_splat(
    plain: Path, tmp_path: Path
) -> None:
    schedule = ["--pipeline.few-photos-fix-steps", 7500, 15_000, "--pipeline.fix-steps", 22_500]
    reports = re.compile(r"Step (\d+): (?:fixed|kept) 5 novel views")
    _, printed = train(tmp_path / "scratch", *schedule)
    assert "3 training photos are few" in printed and "sees photos in full size" in printed
    assert "Before steps 10, 20 they are also rendered and kept" in printed
    assert reports.findall(printed) == ["10", "20", "30"]
    _, printed = train(tmp_path / "trained", *schedule, "--load-dir", plain / "nerfstudio_models")
    assert reports.findall(printed) == ["70"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["nerfstudio-data", "--orientation-method", "none", "--load-3D-points", "True"],
            "placed or scaled the scene differently",
        ),
        (["--pipeline.model.sh-degree", 1], "--pipeline.model.sh-degree"),
        (["--pipeline.targets.kind", "camera-path"], "add --pipeline.targets.camera-path FILE"),
    ],
)
def test_options_that_do_not_fit_the_checkpoint_end_in_one_sentence(
    splatfacto: Path, tmp_path: Path, arguments: list[object], sentence: str
) -> None:
    _, printed = train(tmp_path, "--load-dir", splatfacto / "nerfstudio_models", *arguments, expect=1)
    assert printed.count("difix3d: ") == 1 and sentence in printed
    assert "Traceback" not in printed
