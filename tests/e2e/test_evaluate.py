"""`ns-difix evaluate` on a short run, and on the folders of images that the evaluation writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import run
from PIL import Image

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
NUM_HELD_OUT = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a short run."""
    folder = tmp_path_factory.mktemp("run")
    run(
        *("ns-train", "difix3d-mini", "--data", BANANA, "--output-dir", folder, "--vis", "tensorboard"),
        *("--pipeline.datamanager.camera-res-scale-factor", 0.5, "--pipeline.model.max-gaussians", 3000),
        *("--max-num-iterations", 60, "--pipeline.model.warmup-length", 10, "--pipeline.fix-novel-views", False),
    )
    (file,) = folder.rglob("config.yml")
    return file


@pytest.fixture(scope="module")
def evaluated(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of an evaluation of the run, and the output."""
    output = tmp_path_factory.mktemp("evaluated") / "out"
    options = ["--model", "embedded", "--num-frames", 5, "--frame-size", 120]
    return output, run("ns-difix", "evaluate", "--load-config", config, "--output-dir", output, *options)


def test_a_run_is_measured_on_its_held_out_photos(evaluated: tuple[Path, str], config: Path, tmp_path: Path) -> None:
    folder, printed = evaluated
    found = json.loads((folder / "metrics.json").read_text())
    assert len(found["views"]) == NUM_HELD_OUT
    for view in found["views"]:
        raw, enhanced, photo = (
            np.asarray(Image.open(folder / view["files"][kind])).astype(float) for kind in ("raw", "enhanced", "photo")
        )
        assert raw.shape == enhanced.shape == photo.shape == (159, 240, 3)
        assert np.abs(raw - enhanced).mean() > 0 and view["raw"]["psnr"] > 8
    run("ns-eval", "--load-config", config, "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert found["mean"]["raw"]["psnr"] == pytest.approx(results["psnr"], abs=1e-3)
    assert found["mean"]["enhanced"]["psnr"] == pytest.approx(results["psnr_enhanced"], abs=1e-3)
    assert f"Open {folder / 'index.html'} in a browser" in printed


def test_flicker_of_a_run_is_measured_along_a_path(evaluated: tuple[Path, str]) -> None:
    folder, _ = evaluated
    video = json.loads((folder / "metrics.json").read_text())["flicker"]
    assert video["num_frames"] == 5 and (video["width"], video["height"]) == (120, 79)
    assert 0 < video["raw"]["mean"] < 0.5 and 0 < video["enhanced"]["mean"] < 0.5
    assert 0 < video["raw"]["covered"] <= 1
    assert (folder / "index.html").read_text().count("frames/enhanced/0004.png") == 1


def test_a_camera_path_and_another_strength_are_used(config: Path, tmp_path: Path) -> None:
    poses = [np.eye(4), np.eye(4)]
    poses[1][0, 3] = 0.02
    path = {
        "camera_type": "perspective",
        "render_height": 80,
        "render_width": 120,
        "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": 1.5} for pose in poses],
    }
    (tmp_path / "path.json").write_text(json.dumps(path))
    options = ["--camera-path", tmp_path / "path.json", "--strength", 0, "--model", "embedded"]
    run("ns-difix", "evaluate", "--load-config", config, "--output-dir", tmp_path / "out", *options)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["facts"]["strength"] == "0"
    assert found["mean"]["raw"]["psnr"] == pytest.approx(found["mean"]["enhanced"]["psnr"], abs=0.05)
    assert found["flicker"] is None or found["flicker"]["num_frames"] == 2


def test_folders_get_the_same_metrics_as_the_run(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    images = evaluated[0] / "images"
    arguments = ["--renders", images / "raw", "--enhanced", images / "enhanced", "--photos", images / "photo"]
    run(sys.executable, "-m", "difix3d_ns.cli.evaluate", *arguments, "--output-dir", tmp_path / "out")
    of_run, of_folders = (
        json.loads((folder / "metrics.json").read_text())["mean"] for folder in (evaluated[0], tmp_path / "out")
    )
    for kind in ("raw", "enhanced"):
        # The images in the folders are rounded to 8 bits.
        assert of_folders[kind]["psnr"] == pytest.approx(of_run[kind]["psnr"], abs=0.02)
    assert (tmp_path / "out" / "index.html").exists()


def test_bad_input_ends_in_one_sentence(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    images = evaluated[0] / "images"
    before = (evaluated[0] / "metrics.json").read_bytes()
    for arguments, sentence in (
        (["--renders", images / "raw", "--photos", images / "photo", "--output-dir", evaluated[0]], "is not empty"),
        (["--load-config", tmp_path / "config.yml", "--output-dir", tmp_path / "out"], "cannot be read"),
    ):
        printed = run("ns-difix", "evaluate", *arguments, expect=1)
        (error,) = [line for line in printed.splitlines() if line.startswith("difix3d: ")]
        assert sentence in error and "Traceback" not in printed
    assert (evaluated[0] / "metrics.json").read_bytes() == before and not (tmp_path / "out").exists()


def test_the_help_of_ns_difix_lists_the_command() -> None:
    printed = subprocess.run(["ns-difix", "--help"], capture_output=True, text=True, check=True).stdout
    assert "evaluate" in printed
