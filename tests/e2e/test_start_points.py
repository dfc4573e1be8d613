"""Start points from the photos, by command lines."""

from __future__ import annotations

import json
from pathlib import Path

import open3d
import pytest
from e2e.commands import run

pytestmark = pytest.mark.e2e


def test_a_scene_without_points_starts_from_points_matched_between_its_photos(edit_transforms, tmp_path: Path) -> None:
    scene = edit_transforms(lambda content: content.pop("ply_file_path"))
    train = [
        *("ns-train", "difix3d-mini", "--data", scene, "--output-dir", tmp_path / "out", "--vis", "tensorboard"),
        *("--experiment-name", "run", "--pipeline.fix-novel-views", "False", "--max-num-iterations", 5),
    ]
    printed = " ".join(run(*train, "--timestamp", "first").split())
    folder = tmp_path / "out" / "run" / "difix3d-mini" / "first"
    cloud = open3d.io.read_point_cloud(str(folder / "start_points.ply"))
    assert f"Start points: {len(cloud.points)} after" in printed and len(cloud.points) > 5000
    assert json.loads((folder / "start.json").read_text())["step"] == 0

    evaluated = run("ns-eval", "--load-config", folder / "config.yml", "--output-path", tmp_path / "eval.json")
    resumed = run(*train, "--timestamp", "second", "--load-dir", folder / "nerfstudio_models")
    assert "Start points" not in evaluated + resumed
    assert not (folder.parent / "second" / "start_points.ply").exists()
