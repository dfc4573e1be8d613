"""The cameras that novel views walk to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, ring
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.cameras.poses import nearest_poses, scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.novel_views.targets import TargetConfig, target_cameras

TRAIN = cameras_at(ring(6, 0))
EVAL = cameras_at(ring(10, 1))


def path_of(folder: Path, num_frames: int = 5, **changes) -> Path:
    """A camera path as the viewer's render panel saves it, with some entries changed."""
    frames = [
        {"camera_to_world": torch.cat([pose, torch.eye(4)[3:]]).flatten().tolist(), "fov": 50 + i, "aspect": 1.5}
        for i, pose in enumerate(ring(num_frames, 2))
    ]
    content = {"camera_type": "perspective", "render_height": 80, "render_width": 120, "camera_path": frames}
    file = folder / "path.json"
    file.write_text(json.dumps({**content, **changes}))
    return file


def test_the_eval_split_is_the_default() -> None:
    assert target_cameras(TargetConfig(), TRAIN, EVAL) is EVAL


def test_fewer_targets_are_evenly_spaced_in_the_eval_split(capsys: pytest.CaptureFixture[str]) -> None:
    some = target_cameras(TargetConfig(num_views=5), TRAIN, EVAL)
    assert torch.equal(some.camera_to_worlds, EVAL.camera_to_worlds[::2])
    assert torch.equal(some.fx, EVAL.fx[::2]) and torch.equal(some.width, EVAL.width[::2])
    assert not capsys.readouterr().out
    assert len(target_cameras(TargetConfig(num_views=99), TRAIN, EVAL)) == len(EVAL)
    assert "num-views is 99, but there are only 10 cameras" in " ".join(capsys.readouterr().out.split())
    assert len(target_cameras(TargetConfig(num_views=2), TRAIN, EVAL[:1])) == 1
    assert "num-views is 2, but there is only 1 camera." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["interpolate", "orbit", "spiral", "random"])
@pytest.mark.parametrize("num_views", [0, 1, 17])
def test_generated_targets_have_the_lens_of_the_nearest_training_camera(kind, num_views: int) -> None:
    targets = target_cameras(TargetConfig(kind=kind, num_views=num_views), TRAIN, None)
    assert len(targets) == (num_views or len(TRAIN))
    poses = TRAIN.camera_to_worlds
    nearest = nearest_poses(targets.camera_to_worlds, poses, scene_radius(poses))
    for name in ("fx", "fy", "cx", "cy", "width", "height", "distortion_params", "camera_type"):
        assert torch.equal(getattr(targets, name), getattr(TRAIN, name)[nearest]), name


def test_another_seed_gives_other_random_targets() -> None:
    first, again, other = (
        target_cameras(TargetConfig(kind="random", seed=seed), TRAIN, None).camera_to_worlds for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_camera_path_keeps_its_poses_lenses_and_size(tmp_path: Path) -> None:
    config = TargetConfig(kind="camera-path", camera_path=path_of(tmp_path))
    targets = target_cameras(config, TRAIN, EVAL)
    assert torch.allclose(targets.camera_to_worlds, ring(5, 2))
    assert targets.width.unique().tolist() == [120] and targets.height.unique().tolist() == [80]
    assert targets.fy[2].item() == pytest.approx(40 / math.tan(math.radians(52) / 2))
    assert targets.camera_type.unique().tolist() == [CameraType.PERSPECTIVE.value]
    config.num_views = 2
    assert torch.allclose(target_cameras(config, TRAIN, EVAL).camera_to_worlds, ring(5, 2)[[0, 2]])


def targets_of_path(file: Path) -> Cameras:
    return target_cameras(TargetConfig(kind="camera-path", camera_path=file), TRAIN, EVAL)


def test_whole_numbers_in_a_camera_path_are_read(tmp_path: Path) -> None:
    frame = {"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "fov": 50, "aspect": 1}
    targets = targets_of_path(path_of(tmp_path, camera_path=[frame]))
    assert torch.equal(targets.camera_to_worlds, torch.eye(4)[None, :3])


def frame(**changes) -> list[dict]:
    return [{"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50, "aspect": 1, **changes}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"camera_path": []}, "has no frames"),
        ({"camera_path": None}, "no list `camera_path`"),
        ({"camera_path": [3]}, "is not a camera path"),
        ({"camera_path": frame(camera_to_world=[1.0, 2.0])}, "is not a camera path"),
        ({"camera_path": frame(camera_to_world=[0.0] * 16)}, "whose pose, field of view or size is invalid"),
        ({"camera_path": frame(camera_to_world=[math.nan] * 16)}, "whose pose"),
        ({"camera_path": frame(fov=0)}, "camera path"),
        ({"camera_path": frame(fov="wide")}, "is not a camera path"),
        ({"camera_type": "equirectangular"}, "for equirectangular cameras"),
        ({"render_height": 0}, "camera path"),
        ({"render_height": "tall"}, "is not a camera path"),
    ],
)
def test_an_unusable_camera_path_is_refused_in_one_sentence(tmp_path: Path, changes: dict, sentence: str) -> None:
    file = path_of(tmp_path, **changes)
    with pytest.raises(Difix3DError, match=sentence) as caught:
        targets_of_path(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot be read"), ("{", "not valid JSON"), ("[1]", "no list")]
)
def test_a_file_that_is_not_a_camera_path_is_refused_in_one_sentence(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    file = tmp_path / "path.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Difix3DError, match=sentence):
        targets_of_path(file)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (TargetConfig(), "no evaluation photos"),
        (TargetConfig(kind="camera-path"), r"add --pipeline\.targets\.camera-path"),
        (TargetConfig(camera_path=Path("path.json")), r"add --pipeline\.targets\.kind camera-path"),
        (TargetConfig(kind="random", num_views=-1), "num-views is -1"),
        (TargetConfig(kind="orbit", spread=0.0), "spread is 0"),
    ],
)
def test_invalid_settings_are_refused(config: TargetConfig, sentence: str) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        target_cameras(config, TRAIN, None)


def test_the_error_for_cameras_without_an_orbit_says_what_to_choose() -> None:
    quarter_turns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    poses = torch.eye(4)[:3].repeat(4, 1, 1)  # all at one place and looking straight down, each with another side up
    poses[:, :2, 1] = quarter_turns
    poses[:, :2, 0] = torch.stack([quarter_turns[:, 1], -quarter_turns[:, 0]], dim=-1)
    with pytest.raises(
        Difix3DError, match=r"no orbit poses fit .* no common up direction: choose another --pipeline\.targets\.kind"
    ):
        target_cameras(TargetConfig(kind="orbit"), cameras_at(poses), None)
    assert len(target_cameras(TargetConfig(kind="random"), cameras_at(poses), None)) == 4


def test_fields_of_view_in_radians_and_a_crop_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = {"crop_center": [0, 0, 0], "crop_scale": [1, 1, 1], "crop_bg_color": {"r": 0, "g": 0, "b": 0}}
    targets_of_path(path_of(tmp_path, camera_path=frame(fov=0.87), crop=crop))
    printed = " ".join(capsys.readouterr().out.split())
    assert "such as 0.87. They are vertical and in degrees" in printed
    assert "is only for ns-difix render camera-path. Novel views show the whole scene." in printed
