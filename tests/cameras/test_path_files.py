"""Reading camera path files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from difix3d_ns.cameras.path_files import read_camera_path


@pytest.mark.parametrize(("timing", "seconds"), [({"seconds": 3}, 3.0), ({"fps": 2}, 1.0), ({}, 2 / 24)])
def test_a_path_lasts_as_long_as_its_file_says(tmp_path: Path, timing: dict, seconds: float) -> None:
    frame = {"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50, "aspect": 1}
    content = {"camera_type": "equirectangular", "render_height": 8, "render_width": 16, "camera_path": [frame] * 2}
    (tmp_path / "path.json").write_text(json.dumps({**content, **timing}))
    path = read_camera_path(tmp_path / "path.json")
    assert path.seconds == pytest.approx(seconds) and len(path.cameras) == 2
