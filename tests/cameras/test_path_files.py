"""Reading camera path files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.cameras.path_files import read_camera_path, report_unused_crop
from difix3d_ns.errors import Difix3DError


def frame(**changes) -> dict:
    return {"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50, "aspect": 1, **changes}


def write(folder: Path, *frames: dict, **changes) -> Path:
    """Writes a path of two frames of 16 x 8 pixels, or of the given frames; returns its file."""
    sizes = {"render_height": 8, "render_width": 16, "camera_type": "perspective"}
    file = folder / "path.json"
    file.write_text(json.dumps({**sizes, "camera_path": list(frames) or [frame()] * 2, **changes}))
    return file


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [({"seconds": 3}, 3.0), ({"fps": 2}, 1.0), ({}, 2 / 24), ({"seconds": 3, "fps": 1}, 3.0), ({"fps": None}, 2 / 24)],
)
def test_a_path_lasts_as_long_as_its_file_says(tmp_path: Path, timing: dict, seconds: float) -> None:
    path = read_camera_path(write(tmp_path, camera_type="equirectangular", **timing))
    assert path.seconds == pytest.approx(seconds) and len(path.cameras) == 2


@pytest.mark.parametrize(("fps", "warned"), [(24, True), (0.5, False)])
def test_a_frame_rate_that_contradicts_the_duration_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fps: float, warned: bool
) -> None:
    assert read_camera_path(write(tmp_path, seconds=4, fps=fps)).seconds == 4
    assert ("rendered at 0.5 frames per second" in " ".join(capsys.readouterr().out.split())) == warned


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fps": 0}, "has fps 0: give a number above 0"),
        ({"fps": -24}, "has fps -24"),
        ({"seconds": 0}, "has seconds 0"),
        ({"seconds": -1.5, "fps": 24}, "has seconds -1.5"),
        ({"seconds": math.inf}, "has seconds inf"),
        ({"seconds": math.nan}, "has seconds nan"),
        ({"seconds": "long"}, "is not a camera path"),
        ({"camera_type": "orthographic"}, "has the camera_type orthographic: give one of perspective, fisheye"),
        ({"camera_type": 3}, "has the camera_type 3"),
        ({"render_width": 16.5}, "has the render_width 16.5: give a whole number"),
        ({"camera_path": [frame(fov=180)]}, "whose pose, field of view or size is invalid"),
        ({"camera_path": [frame(), frame(fov=-50)]}, "whose pose, field of view or size is invalid"),
        ({"camera_path": [frame(camera_to_world=torch.eye(4)[:3].flatten().tolist())]}, "is not a camera path"),
    ],
)
def test_odd_content_is_refused_in_one_sentence(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(Difix3DError) as caught:
        read_camera_path(write(tmp_path, **changes))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_matrices_written_by_columns_and_mirrored_ones_are_refused(tmp_path: Path) -> None:
    moved, mirrored = torch.eye(4), torch.eye(4)
    moved[2, 3], mirrored[0, 0] = 0.8, -1.0
    assert read_camera_path(write(tmp_path, frame(camera_to_world=moved.tolist()))).cameras[0].camera_to_worlds[2, 3]
    with pytest.raises(Difix3DError, match="row by row"):
        read_camera_path(write(tmp_path, frame(), frame(camera_to_world=moved.T.flatten().tolist())))
    with pytest.raises(Difix3DError, match="mirrors the scene"):
        read_camera_path(write(tmp_path, frame(camera_to_world=mirrored.flatten().tolist())))


def test_capitals_in_the_camera_type_and_whole_numbers_with_a_point_are_understood(tmp_path: Path) -> None:
    cameras = read_camera_path(write(tmp_path, camera_type="Fisheye", render_width=16.0, render_height=9)).cameras
    assert cameras.camera_type.unique().tolist() == [CameraType.FISHEYE.value]
    assert (cameras.width.unique().tolist(), cameras.height.unique().tolist()) == ([16], [9])


@pytest.mark.parametrize(
    ("fields_of_view", "camera_type", "warned"),
    [
        ((0.87, 0.87), "perspective", True),
        ((1.2, 2.9), "fisheye", True),
        ((0.87, 3.5), "perspective", False),
        ((50, 50), "perspective", False),
        ((0.87, 0.87), "equirectangular", False),
    ],
)
def test_fields_of_view_that_look_like_radians_are_warned_about_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields_of_view: tuple, camera_type: str, warned: bool
) -> None:
    file = write(tmp_path, *(frame(fov=fov) for fov in fields_of_view), camera_type=camera_type)
    for _ in range(2):
        assert len(read_camera_path(file).cameras) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count(f"such as {fields_of_view[0]:g}. They are vertical and in degrees") == warned
    assert bool(printed) == warned


def test_times_of_only_some_frames_are_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_camera_path(write(tmp_path, frame(render_time=0.5), frame())).cameras.times is None
    assert "Only 1 of the 2 frames" in " ".join(capsys.readouterr().out.split())
    times = read_camera_path(write(tmp_path, frame(render_time=0.5), frame(render_time=1.0))).cameras.times
    assert times is not None and times.flatten().tolist() == [0.5, 1.0] and not capsys.readouterr().out


@pytest.mark.parametrize("crop", [None, {"crop_scale": [1, 1, 1]}])
def test_a_crop_that_is_not_used_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], crop: dict | None
) -> None:
    file = write(tmp_path, crop=crop)
    report_unused_crop(read_camera_path(file), file, "The whole scene is used.")
    printed = " ".join(capsys.readouterr().out.split())
    assert ("The crop in" in printed and "The whole scene is used." in printed) == (crop is not None)
