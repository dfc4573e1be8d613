"""A run made before the package was laid out in folders: every command still reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import run, serving_viewer
from PIL import Image

pytestmark = pytest.mark.e2e

TESTS = Path(__file__).parents[1]
RUN = Path("tests") / "runs" / "banana" / "difix3d-mini" / "before_the_folders"
CONFIG = ["--load-config", RUN / "config.yml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the one in which the run was trained, because its config has relative paths."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(TESTS / "runs", folder / "tests" / "runs")
    os.symlink(TESTS / "scenes", folder / "tests" / "scenes")
    return folder


def test_it_is_evaluated_by_nerfstudio(folder: Path) -> None:
    run("ns-eval", *CONFIG, "--output-path", "eval.json", cwd=folder)
    results = json.loads((folder / "eval.json").read_text())["results"]
    assert results["psnr"] > 10 and results["psnr_enhanced"] > 10


def test_it_is_rendered_by_nerfstudio(folder: Path) -> None:
    names = ["--rendered-output-names", "rgb", "rgb_enhanced"]
    run("ns-render", "dataset", *CONFIG, "--output-path", "rendered", *names, cwd=folder)
    assert len(list((folder / "rendered" / "test" / "rgb_enhanced").iterdir())) == 5


def test_it_is_rendered_and_measured_by_ns_difix(folder: Path) -> None:
    run("ns-difix", "render", "dataset", *CONFIG, "--output-path", "enhanced", cwd=folder)
    frames = [path for path in (folder / "enhanced").rglob("*") if path.is_file()]
    assert len(frames) == 5 and all(np.asarray(Image.open(frame)).std() > 5 for frame in frames)
    run("ns-difix", "evaluate", *CONFIG, "--output-dir", "report", cwd=folder)
    assert (folder / "report" / "index.html").exists()


def test_it_is_shown_in_the_viewer(folder: Path, tmp_path: Path) -> None:
    with serving_viewer(*CONFIG, log=tmp_path / "log", cwd=folder) as page:
        assert "<html" in page.lower()


def test_it_is_resumed_with_its_pseudo_views(folder: Path) -> None:
    small = ["--pipeline.datamanager.camera-res-scale-factor", 0.25, "--pipeline.model.max-gaussians", 600]
    schedule = ["--pipeline.fix-steps", 20, 40, 70, "--pipeline.planned-num-iterations", 0]
    scene = Path("tests") / "scenes" / "banana" / "transforms_biased3.json"
    printed = run(
        *("ns-train", "difix3d-mini", "--data", scene, "--output-dir", "outputs", "--vis", "tensorboard"),
        *("--load-dir", RUN / "nerfstudio_models", "--max-num-iterations", 20, *small, *schedule),
        *("--pipeline.model.min-initial-gaussians", 0, "--pipeline.early-fix-steps"),
        cwd=folder,
    )
    printed = " ".join(printed.split())
    assert "Starts from the difix3d-mini checkpoint of step 59" in printed
    assert "Resumed with 5 pseudo views fixed at step 40." in printed
    assert re.findall(r"Step (\d+): fixed 5 novel views", printed) == ["70"]
