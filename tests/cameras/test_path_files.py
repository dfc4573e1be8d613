"""Camera paths from files, and the spiral."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, ring

from difix3d_ns.cameras.path_files import read_camera_path, spiral_around


@pytest.mark.parametrize(("timing", "seconds"), [({"seconds": 3}, 3.0), ({"fps": 2}, 1.0), ({}, 2 / 24)])
def test_a_path_lasts_as_long_as_its_file_says(tmp_path: Path, timing: dict, seconds: float) -> None:
    frame = {"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50, "aspect": 1}
    content = {"camera_type": "equirectangular", "render_height": 8, "render_width": 16, "camera_path": [frame] * 2}
    (tmp_path / "path.json").write_text(json.dumps({**content, **timing}))
    path = read_camera_path(tmp_path / "path.json")
    assert path.seconds == pytest.approx(seconds) and len(path.cameras) == 2


def test_a_spiral_stays_upright_and_around_its_camera() -> None:
    camera = cameras_at(ring(5, 2))[3:4]
    path = spiral_around(camera, 40, radius=0.2)
    assert torch.allclose(path.camera_to_worlds[:, :, :3], camera.camera_to_worlds[:, :, :3].expand(40, 3, 3))
    offsets = path.camera_to_worlds[:, :, 3] - camera.camera_to_worlds[:, :, 3]
    in_view = torch.einsum("nij,ni->nj", path.camera_to_worlds[:, :, :3], offsets)
    assert torch.allclose(in_view[:, :2].norm(dim=-1), torch.full((40,), 0.2), atol=1e-5)
    assert in_view[:, 2].abs().max() <= 0.2 + 1e-5
    assert path.width.unique().tolist() == camera.width.tolist()[0] and torch.equal(path.fy[0], camera.fy[0])
