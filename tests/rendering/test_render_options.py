"""Options of `ns-difix render`: what is given holds or is refused, and paths have the size and lens of the photos."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from difix3d_ns.cli.render import main
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.rendering.commands import OptionalDifix, OptionalReferences
from difix3d_ns.videos.reader import VideoReader

IMAGES = ["--output-format", "images", "--image-format", "png"]
RGB = ["--rendered-output-names", "rgb"]


@pytest.fixture(autouse=True)
def fixers(monkeypatch: pytest.MonkeyPatch) -> list[DifixConfig]:
    """Replaces the network by one that adds 0.2 times the strength; returns the settings of every call."""
    settings: list[DifixConfig] = []

    def clean(self: LazyFixer, renders: Sequence[torch.Tensor], *_: object) -> list[torch.Tensor]:
        settings.append(self.config)
        return [(render + 0.2 * self.config.strength).clamp(0, 1) for render in renders]

    monkeypatch.setattr(LazyFixer, "clean", clean)
    return settings


def render(subcommand: str, config: Path, output: Path, *arguments: object) -> None:
    main([subcommand, "--load-config", str(config), "--output-path", str(output), *map(str, arguments)])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(float) / 255


def frames_in(folder: Path) -> list[np.ndarray]:
    return [pixels(file) for file in sorted(folder.iterdir())]


def refusal_of(subcommand: str, config: Path, output: Path, *arguments: object) -> str:
    """The sentence that a command ends with; nothing must have been written."""
    with pytest.raises(SystemExit) as caught:
        render(subcommand, config, output, *arguments)
    sentence = str(caught.value).strip()
    assert sentence.startswith("difix3d: ") and "\n" not in sentence and not output.exists()
    return sentence


def edited(scene: Path, name: str, **entries: object) -> Path:
    """Changes entries of a transforms JSON; returns the file."""
    file = scene / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return file


def test_frames_of_photos_with_an_off_centre_lens_have_their_size_and_their_view(
    difix3d_run_on, banana_copy: Path, tmp_path: Path
) -> None:
    run = difix3d_run_on(edited(banana_copy, "transforms_biased3.json", cx=300.0, cy=100.0))
    path = ["--pose-source", "train", "--interpolation-steps", 1]
    render("interpolate", run, tmp_path / "path", *path, *IMAGES, *RGB)
    render("dataset", run, tmp_path / "views", "--split", "train", "--image-format", "png", *RGB)
    frames, views = frames_in(tmp_path / "path"), frames_in(tmp_path / "views" / "train" / "rgb")
    assert [frame.shape for frame in frames] == [(31, 48, 3)] * 2
    for frame, view in zip(frames, views[:2], strict=True):
        assert view.std() > 0.02 and np.abs(frame - view).mean() < 1e-3
    render("spiral", run, tmp_path / "spiral", "--seconds", 0.1, "--radius", 0, *IMAGES, *RGB)
    render("dataset", run, tmp_path / "views", "--split", "test", "--image-format", "png", *RGB)
    first = frames_in(tmp_path / "views" / "test" / "rgb")[0]
    for frame in frames_in(tmp_path / "spiral"):
        assert frame.shape == (31, 48, 3) and np.abs(frame - first).mean() < 1e-3


def test_a_path_through_photos_of_several_sizes_has_the_most_frequent_one(
    difix3d_run_on, banana_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "transforms_biased3.json"
    frames = json.loads((banana_copy / name).read_text())["frames"]
    lens = {"w": 480, "h": 319, "fl_x": 832.0, "fl_y": 832.0, "cx": 240.0, "cy": 159.5}
    for frame in frames:
        frame.update(lens)
        if frame["file_path"].endswith("DSC_0426.jpg"):  # the first training photo
            frame.update({"w": 300, "cx": 150.0})
            with Image.open(banana_copy / frame["file_path"]) as photo:
                photo.crop((90, 0, 390, 319)).save(banana_copy / frame["file_path"])
    scene = edited(banana_copy, name, frames=frames)
    content = json.loads(scene.read_text())
    scene.write_text(json.dumps({key: value for key, value in content.items() if key not in lens}))
    path = ["--pose-source", "train", "--interpolation-steps", 1]
    render("interpolate", difix3d_run_on(scene), tmp_path / "path", *path, *IMAGES, *RGB)
    assert [frame.shape for frame in frames_in(tmp_path / "path")] == [(31, 48, 3)] * 2
    assert "2 sizes: frames are 48 x 31, like 2 of the 3 photos" in " ".join(capsys.readouterr().out.split())


def test_the_frame_rate_of_a_video_is_the_given_one(difix3d_run: Path, tmp_path: Path) -> None:
    path = ["--pose-source", "train", "--interpolation-steps", 2, *RGB]
    render("interpolate", difix3d_run, tmp_path / "path.mp4", *path, "--frame-rate", 10)
    render("spiral", difix3d_run, tmp_path / "spiral.mp4", "--seconds", 0.29, "--frame-rate", 10, *RGB)
    for name, number in (("path", 4), ("spiral", 3)):
        video = VideoReader(tmp_path / f"{name}.mp4")
        assert (video.fps, len(video)) == (10, number)


@pytest.mark.parametrize(("given", "strength"), [([], 0.7), (["--difix.strength", 1.0], 1.0)])
def test_a_given_strength_holds_even_if_it_is_the_default(
    difix3d_run: Path, tmp_path: Path, fixers: list[DifixConfig], given: list, strength: float
) -> None:
    config = yaml.load(difix3d_run.read_text(), Loader=yaml.Loader)
    config.pipeline.difix.strength = 0.7
    difix3d_run.write_text(yaml.dump(config))
    names = ["--rendered-output-names", "rgb", "rgb_enhanced"]
    render("spiral", difix3d_run, tmp_path / "out", "--seconds", 0.05, *IMAGES, *names, *given)
    raw, enhanced = np.split(frames_in(tmp_path / "out")[0], 2, axis=1)
    assert [settings.strength for settings in fixers] == [strength]
    assert np.abs(enhanced - np.clip(raw + 0.2 * strength, 0, 1)).max() < 1.01 / 255


@pytest.mark.parametrize("subcommand", ["camera-path", "interpolate", "spiral", "dataset"])
def test_every_setting_of_the_network_and_of_references_holds_in_every_subcommand(
    difix3d_run: Path, tmp_path: Path, camera_path, fixers: list[DifixConfig], subcommand: str
) -> None:
    trained = DifixConfig("identity", "v1", "base", "float16", 7, False, 0.7, offload=True, compile=True)
    config = yaml.load(difix3d_run.read_text(), Loader=yaml.Loader)
    config.pipeline.difix, config.pipeline.references = trained, ReferenceConfig("overlap", 3, 0.5, 2.0)
    difix3d_run.write_text(yaml.dump(config))
    default = {name: value for name, value in vars(DifixConfig()).items() if value is not None}
    given = [f"--difix.{name.replace('_', '-')}={value}" for name, value in (default | {"model": "embedded"}).items()]
    given += ["--references.choice=pose", "--references.max-distance=0.0", "--references.align=none"]
    given += ["--camera-path-filename", camera_path()] if subcommand == "camera-path" else []
    given += ["--interpolation-steps", 1] if subcommand == "interpolate" else []
    given += ["--seconds", 0.05] if subcommand == "spiral" else []
    given += [] if subcommand == "dataset" else ["--output-format", "images"]
    render(subcommand, difix3d_run, tmp_path / "out", *given)
    assert fixers and set(map(repr, fixers)) == {repr(DifixConfig("embedded"))}


def test_the_options_are_those_of_the_configs_and_help_says_what_holds_without_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert vars(OptionalDifix()) == dict.fromkeys(vars(DifixConfig()))
    assert vars(OptionalReferences()) == dict.fromkeys(vars(ReferenceConfig()))
    with pytest.raises(SystemExit):
        main(["spiral", "--help"])
    printed = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "(default: as the run was trained, else 1.0)" in printed
    assert "Blend between the render (0) and the network's result (1)." in printed
    assert "Format of the images. (default: jpeg)" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image-format", "jpeg"], "--image-format is not for videos: leave it out, or add --output-format images"),
        (["--jpeg-quality", 100], "--jpeg-quality is not for videos"),
        ([*IMAGES, "--jpeg-quality", 90], "--jpeg-quality is for JPEG images, not for PNG"),
        (["--output-format", "images", "--jpeg-quality", 101], "--jpeg-quality must be from 1 to 100, not 101"),
        (["--output-path", "{}/out.gif"], r"out\.gif cannot be written as a video"),
        *((["--output-path", each], "is a folder: give the file of the video") for each in (".", "..", "/", "x/..")),
        (["--rendered-output-names"], "--rendered-output-names is empty"),
        (["--check-occlusions", "True"], "only with --render-nearest-camera True"),
        (["--depth-near-plane", 0], "--depth-near-plane colours images of depth: add depth"),
        (["--rendered-output-names", "depth", "--depth-near-plane", 2, "--depth-far-plane", 1], "must be below"),
        (["--rendered-output-names", "depth", "--depth-far-plane", "nan"], "must be a number, not nan"),
        (["--colormap-options.invert", "False"], "--colormap-options.invert is for outputs of one channel"),
        (["--rendered-output-names", "depth", "--colormap-options.colormap", "pca"], "choose another one"),
        ([*RGB, "--match-colors", "True"], "--match-colors is for enhanced frames: add rgb_enhanced"),
        ([*RGB, "--clear-unseen", "False"], "--clear-unseen is for enhanced frames"),
        (["--clear-unseen", "True", "--references.align", "none"], "is for splats whose references are aligned"),
        ([*RGB, "--steadiness", 0.5], "--steadiness is for enhanced frames"),
        ([*RGB, "--previous-frame-as-reference", "True"], "--previous-frame-as-reference is for enhanced frames"),
        ([*RGB, "--difix.strength", 1], r"--difix\.strength is for enhanced frames"),
        ([*RGB, "--references.choice", "pose"], r"--references\.choice is for enhanced frames"),
        (["--difix.strength", 1.5], r"--difix\.strength must be from 0 to 1, not 1\.5"),
        (["--difix.max-pixels-per-batch", 0], "must be 1 or more, not 0"),
        (["--difix.model", "embedded", "--difix.revision", "v1"], "only for files from the hub, not for embedded"),
        (["--difix.model", "embedded", "--difix.base", "a/b"], r"only for a network in a \.pkl file, not for embedded"),
        (["--difix.model", "identity", "--difix.strength", 1], "has no effect with the network identity"),
        (["--references.num-candidates", 4], r"only if references are chosen by overlap: add --references\.choice"),
        (["--references.choice", "overlap", "--references.num-candidates", 0], "must be 1 or more, not 0"),
        (["--references.choice", "overlap", "--references.min-overlap", 2], "must be from 0 to 1, not 2"),
        (["--references.max-distance", -1], "must be 0 or more, not -1"),
        (["--difix.use-reference", "False", "--references.choice", "pose"], "no effect without references"),
        (["--difix.model", "embedded", "--references.max-distance", 0.5], "has no effect on aligned references"),
        (["--difix.model", "embedded", "--references.choice", "pose"], r"or add --references\.align none"),
        (["--previous-frame-as-reference", "True", "--clear-unseen", "True"], "is for frames with photos as reference"),
        (["--eval-num-rays-per-chunk", 100], "not for splats: leave it out"),
        (["--eval-num-rays-per-chunk", 0], "must be 1 or more, not 0"),
        (["--camera-idx", 0], "does that only in training"),
        (["--downscale-factor", 100], "leaves nothing of 48 x 31 pixels"),
        (["--downscale-factor", "nan"], "--downscale-factor is nan"),
        (["--seconds", -3, "--frame-rate", -24], "--frame-rate gives -24 frames per second"),
        (["--seconds", "inf"], "--seconds is inf"),
        (["--radius", "nan"], "--radius is nan"),
    ],
)
def test_an_option_without_effect_or_with_an_invalid_value_is_refused_in_one_sentence(
    splatfacto_run: Path, tmp_path: Path, arguments: list, sentence: str
) -> None:
    given = [str(each).format(tmp_path) for each in arguments]
    assert re.search(sentence, refusal_of("spiral", splatfacto_run, tmp_path / "out.mp4", *given))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--render-nearest-camera", "True"], "only for paths"),
        (["--check-occlusions", "True"], "only for paths"),
        (["--camera-idx", 0], "only for paths"),
        (["--rendered-output-names", "raw-depth", "--image-format", "png"], "not for raw outputs"),
        (["--rendered-output-names", "raw-depth", "--depth-near-plane", 1], "add depth"),
        (["--colormap-options.normalize", "True"], "is for outputs of one channel"),
        (["--downscale-factor", "inf"], "--downscale-factor is inf"),
        (["--downscale-factor", 1000], "--downscale-factor 1000.0 leaves nothing of the views"),
        (["--rendered-output-names", "gt-rgb", "--match-colors", "True"], "is for enhanced frames"),
    ],
)
def test_dataset_refuses_options_without_effect(
    difix3d_run: Path, tmp_path: Path, arguments: list, sentence: str
) -> None:
    assert sentence in refusal_of("dataset", difix3d_run, tmp_path / "out", *arguments)


def test_interpolate_refuses_a_frame_rate_for_images(difix3d_run: Path, tmp_path: Path) -> None:
    sentence = refusal_of("interpolate", difix3d_run, tmp_path / "out", "--frame-rate", 24, *IMAGES)
    assert "--frame-rate is for videos" in sentence


def test_a_given_colour_map_and_range_of_depths_hold(difix3d_run: Path, tmp_path: Path) -> None:
    names = ["--rendered-output-names", "depth", "accumulation", "--seconds", 0.05, *IMAGES]
    inverted = ["--colormap-options.colormap", "gray", "--colormap-options.invert"]
    for given in ("False", "True"):
        render("spiral", difix3d_run, tmp_path / given, *names, *inverted, given, "--depth-near-plane", 0)
    plain, inverse = (frames_in(tmp_path / given)[0][:, 48:] for given in ("False", "True"))
    assert plain.std() > 0.02 and np.abs(plain + inverse - 1).max() < 1.01 / 255


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crop": {}}, "cannot be read"),
        ({"seconds": 1e9}, "frames per second: it must be from 0.001"),
        ({"camera_type": "equirectangular"}, "only be rendered with perspective"),
    ],
)
def test_a_camera_path_that_cannot_be_rendered_is_refused_before_the_run_is_loaded(
    splatfacto_run: Path, tmp_path: Path, camera_path, changes: dict, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difix3d_ns.rendering.loading.settle_on_checkpoint", lambda *_: pytest.fail("it was loaded"))
    path = ["--camera-path-filename", camera_path(**changes)]
    assert sentence in refusal_of("camera-path", splatfacto_run, tmp_path / "out.mp4", *path)


def test_a_folder_of_images_loses_only_the_extension_of_a_file(splatfacto_run: Path, tmp_path: Path) -> None:
    for given in ("v1.2/", "clip.mp4", "photo.PNG"):
        render("spiral", splatfacto_run, tmp_path / "out" / given, "--seconds", 0.05, *IMAGES, *RGB)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"v1.2", "clip", "photo"}


@pytest.mark.parametrize("scale", [[0, 1, 1], [-1, 1, 1], [1, 1, float("nan")], [1, 1]])
def test_a_crop_without_extent_is_refused(splatfacto_run: Path, tmp_path: Path, camera_path, scale: list) -> None:
    crop = {"crop_center": [0, 0, 0], "crop_scale": scale, "crop_bg_color": {"r": 0, "g": 0, "b": 0}}
    path = ["--camera-path-filename", camera_path(crop=crop)]
    assert "the crop in " in refusal_of("camera-path", splatfacto_run, tmp_path / "out.mp4", *path)


def test_a_crop_leaves_only_its_background_around_it(splatfacto_run: Path, tmp_path: Path, camera_path) -> None:
    colour = {"r": 255, "g": 0, "b": 0}
    crop = {"crop_center": [90, 90, 90], "crop_scale": [1, 1, 1], "crop_rot": [0, 0.5, 0], "crop_bg_color": colour}
    path = ["--camera-path-filename", camera_path(crop=crop)]
    render("camera-path", splatfacto_run, tmp_path / "out", *path, *IMAGES, *RGB)
    for frame in frames_in(tmp_path / "out"):
        assert np.array_equal(frame.reshape(-1, 3).mean(axis=0), [1, 0, 0])


def test_fields_of_view_in_radians_are_warned_about_once(
    splatfacto_run: Path, tmp_path: Path, camera_path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = camera_path()
    content = json.loads(file.read_text())
    for frame in content["camera_path"]:
        frame["fov"] = 0.87
    file.write_text(json.dumps(content))
    render("camera-path", splatfacto_run, tmp_path / "out", "--camera-path-filename", file, *IMAGES, *RGB)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("such as 0.87. They are vertical and in degrees") == 1
