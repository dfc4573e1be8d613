"""`ns-difix render` on runs of several methods."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from PIL import Image
from scenes_of_photos import scene_of_photos

from difix3d_ns.cli.render import main
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.images.photos import read_photo
from difix3d_ns.nerfacto.coverage import Coverage
from difix3d_ns.nerfacto.model import Difix3DNerfactoModel
from difix3d_ns.rendering.loading import RunOptions, load_run
from difix3d_ns.rendering.nearest_photo import photo_beside
from difix3d_ns.rendering.runs import Run
from difix3d_ns.videos.reader import VideoReader

FRAME_SIZE = (31, 48)


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replaces the network by one that adds 0.2; returns the numbers of frames and of references of every call."""
    calls: list[tuple[int, int]] = []

    def clean(
        self, renders: Sequence[torch.Tensor], references: Sequence[torch.Tensor | None], cameras: object
    ) -> list[torch.Tensor]:
        calls.append((len(renders), sum(reference is not None for reference in references)))
        return [(render + 0.2).clamp(0, 1) for render in renders]

    monkeypatch.setattr(LazyFixer, "clean", clean)
    return calls


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the ffmpeg program, which no command may need."""
    monkeypatch.setenv("PATH", "/nowhere")


def render(subcommand: str, config: Path, output: Path, *arguments: object) -> None:
    main([subcommand, "--load-config", str(config), "--output-path", str(output), *map(str, arguments)])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(float) / 255


def edited(scene: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Changes the content of a transforms JSON by a function; returns the file."""
    content = json.loads(scene.read_text())
    change(content)
    scene.write_text(json.dumps(content))
    return scene


def test_a_camera_path_of_a_splatfacto_run_is_rendered_raw_and_enhanced(
    splatfacto_run: Path, tmp_path: Path, camera_path, batches: list
) -> None:
    names = ["--rendered-output-names", "rgb", "rgb_enhanced", "depth"]
    images = ["--output-format", "images", "--image-format", "png"]
    render("camera-path", splatfacto_run, tmp_path / "out", "--camera-path-filename", camera_path(), *names, *images)
    frames = [pixels(file) for file in sorted((tmp_path / "out").iterdir())]
    assert [frame.shape for frame in frames] == [(16, 72, 3)] * 3
    for frame in frames:
        raw, enhanced = frame[:, :24], frame[:, 24:48]
        assert raw.std() > 0.01
        assert np.abs(enhanced - np.clip(raw + 0.2, 0, 1)).max() < 1.01 / 255
    assert batches == [(3, 3)]


def test_matched_frames_have_the_large_scale_colours_of_their_renders(
    splatfacto_run: Path, tmp_path: Path, camera_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clean(
        self, renders: Sequence[torch.Tensor], references: Sequence[torch.Tensor | None], cameras: object
    ) -> list[torch.Tensor]:
        return [render.clamp(0.2, 0.7) + torch.tensor([0.2, 0.0, -0.2]) for render in renders]

    def opaque(self, camera, crop):
        outputs = render_frame(self, camera, crop)
        outputs["accumulation"] = torch.ones_like(outputs["accumulation"])
        return outputs

    render_frame = Run._render
    monkeypatch.setattr(Run, "_render", opaque)
    monkeypatch.setattr(LazyFixer, "clean", clean)
    path = ["--camera-path-filename", camera_path(), "--output-format", "images", "--image-format", "png"]
    names = ["--rendered-output-names", "rgb", "rgb_enhanced"]
    for given, bound in (("False", (0.15, 1.0)), ("True", (0.0, 0.03))):
        render("camera-path", splatfacto_run, tmp_path / given, *path, *names, "--match-colors", given)
        for file in sorted((tmp_path / given).iterdir()):
            raw, enhanced = np.split(pixels(file), 2, axis=1)
            shift = np.abs((enhanced - raw).mean(axis=(0, 1))).max()
            assert bound[0] <= shift <= bound[1]


def test_a_batch_contains_no_more_pixels_than_configured(
    splatfacto_run: Path, tmp_path: Path, camera_path, batches: list
) -> None:
    path = ["--camera-path-filename", camera_path(), "--output-format", "images"]
    options = ["--difix.max-pixels-per-batch", 2 * 16 * 24, "--difix.use-reference", "False"]
    render("camera-path", splatfacto_run, tmp_path / "out", *path, *options)
    assert batches == [(2, 0), (1, 0)]


def test_without_the_enhanced_output_no_network_is_loaded(
    splatfacto_run: Path, tmp_path: Path, camera_path, batches: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LazyFixer, "load", lambda self: pytest.fail("a fixer was loaded"))
    path = ["--camera-path-filename", camera_path(), "--output-format", "images"]
    render("camera-path", splatfacto_run, tmp_path / "out", *path, "--rendered-output-names", "rgb")
    assert len(list((tmp_path / "out").iterdir())) == 3 and not batches


def test_videos_need_no_ffmpeg_and_last_as_long_as_the_path(splatfacto_run: Path, tmp_path: Path, camera_path) -> None:
    render("camera-path", splatfacto_run, tmp_path / "out", "--camera-path-filename", camera_path())
    video = VideoReader(tmp_path / "out.mp4")
    assert (len(video), video.fps, video.height, video.width) == (3, 2, 16, 24)


def test_a_spiral_of_a_splat_is_rendered_at_the_size_of_the_photos(difix3d_run: Path, tmp_path: Path) -> None:
    images = ["--output-format", "images", "--seconds", 0.1, "--render-nearest-camera", "True"]
    render("spiral", difix3d_run, tmp_path / "out", *images, "--check-occlusions", "True", "--image-format", "png")
    frames = sorted((tmp_path / "out").iterdir())
    assert len(frames) == 2
    assert pixels(frames[0]).shape[:2] == (FRAME_SIZE[0], 2 * FRAME_SIZE[1])


@pytest.fixture
def run_with_a_portrait(difix3d_run_on, tmp_path: Path) -> Path:
    """Config of a run with two training photos of 48 x 32 pixels and a last one of 32 x 48."""
    scene = scene_of_photos(tmp_path / "scene", size=(480, 320))

    def turn_last(content: dict[str, Any]) -> None:
        lens = {name: content.pop(name) for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
        for frame in content["frames"]:
            frame.update(lens)
            if frame["file_path"] == content["train_filenames"][-1]:
                frame.update(w=320, h=480, cx=160, cy=240)
                with Image.open(scene.parent / frame["file_path"]) as photo:
                    photo.transpose(Image.Transpose.ROTATE_90).save(scene.parent / frame["file_path"])

    return difix3d_run_on(edited(scene, turn_last))


def test_a_video_beside_portrait_and_landscape_photos_has_one_size(run_with_a_portrait: Path, tmp_path: Path) -> None:
    path = ["--pose-source", "train", "--interpolation-steps", 2, "--render-nearest-camera", "True"]
    render("interpolate", run_with_a_portrait, tmp_path / "out.mp4", *path, "--rendered-output-names", "rgb")
    video = VideoReader(tmp_path / "out.mp4")
    assert (len(video), video.height, video.width) == (4, 32, 2 * 48)


def test_a_portrait_beside_a_frame_has_black_bars(run_with_a_portrait: Path) -> None:
    run = load_run(run_with_a_portrait, RunOptions())
    for index, columns in ((0, range(48)), (1, range(48)), (2, range(13, 34))):
        shown = photo_beside(run, index, 32)
        assert shown.shape == (32, 48, 3)
        is_black = (shown == 0).all(dim=(0, 2)).tolist()
        assert is_black == [column not in columns for column in range(48)]
    photo = read_photo(run.train_dataset, 2)
    assert photo.shape == (48, 32, 3)
    assert torch.allclose(shown[:, 13:34].mean(dim=(0, 1)), photo.mean(dim=(0, 1)), atol=0.01)


def test_interpolation_between_the_photos_of_a_nerfacto_run(nerfacto_run: Path, tmp_path: Path, batches: list) -> None:
    names = ["--rendered-output-names", "rgb", "rgb_enhanced", "--output-format", "images", "--image-format", "png"]
    path = ["--pose-source", "train", "--interpolation-steps", 2]
    render("interpolate", nerfacto_run, tmp_path / "out", *path, *names, "--downscale-factor", 2)
    frames = [pixels(file) for file in sorted((tmp_path / "out").iterdir())]
    assert len(frames) == 4 and batches == [(4, 4)]
    raw, enhanced = np.split(frames[0], 2, axis=1)
    assert raw.shape == (FRAME_SIZE[0] // 2, FRAME_SIZE[1] // 2, 3)
    assert np.abs(enhanced - np.clip(raw + 0.2, 0, 1)).max() < 1.01 / 255


def test_stereo_frames_show_the_left_eye_left_and_the_right_one_right(
    nerfacto_run: Path, tmp_path: Path, camera_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render_eye(self, cameras, enhanced, crop, reference):
        right = CameraType.VR180_R.value
        return [{"rgb_enhanced": torch.full((16, 16, 3), float(each.camera_type.item() == right))} for each in cameras]

    monkeypatch.setattr(Run, "render", render_eye)
    path = camera_path(camera_type="vr180", render_width=16)
    images = ["--output-format", "images", "--image-format", "png"]
    render("camera-path", nerfacto_run, tmp_path / "out", "--camera-path-filename", path, *images)
    for file in sorted((tmp_path / "out").iterdir()):
        frame = pixels(file)
        assert frame.shape == (16, 32, 3)
        assert frame[:, :16].max() == 0 and frame[:, 16:].min() == 1


def test_an_equirectangular_video_is_marked_as_spherical(nerfacto_run: Path, tmp_path: Path, camera_path) -> None:
    path = camera_path(camera_type="equirectangular")
    render("camera-path", nerfacto_run, tmp_path / "out.mp4", "--camera-path-filename", path)
    assert b"GSpherical:Spherical" in (tmp_path / "out.mp4").read_bytes()
    assert len(VideoReader(tmp_path / "out.mp4")) == 3
    assert not list(tmp_path.glob("*.part"))


def test_the_views_of_a_dataset_are_named_after_their_photos(difix3d_run: Path, tmp_path: Path) -> None:
    names = ["rgb", "rgb_enhanced", "depth", "raw-depth", "gt-rgb", "raw-rgb_enhanced", "rgba"]
    options = ["--rendered-output-names", *names, "--image-format", "png"]
    render("dataset", difix3d_run, tmp_path / "out", "--split", "train+test", *options)
    for split, number in (("train", 3), ("test", 5)):
        assert {path.name for path in (tmp_path / "out" / split).iterdir()} == set(names)
        files = {name: sorted((tmp_path / "out" / split / name).iterdir()) for name in names}
        assert {len(found) for found in files.values()} == {number}
        stems = [file.stem for file in files["rgb"]]
        assert [file.stem for file in files["gt-rgb"]] == stems
        assert [file.name for file in files["raw-depth"]] == [f"{stem}.npy.gz" for stem in stems]
        for raw, enhanced in zip(files["rgb"], files["rgb_enhanced"], strict=True):
            assert np.abs(pixels(enhanced) - np.clip(pixels(raw) + 0.2, 0, 1)).max() < 1.01 / 255
        with gzip.open(files["raw-depth"][0]) as file:
            depth = np.load(file)
        assert depth.shape == (*FRAME_SIZE, 1) and depth.min() > 0
        assert pixels(files["rgba"][0]).shape == (*FRAME_SIZE, 4)
        assert pixels(files["gt-rgb"][0]).std() > 0.05


def test_views_of_another_size_than_the_photos_get_references(
    difix3d_run_on, banana_copy: Path, tmp_path: Path, batches: list
) -> None:
    run = difix3d_run_on(banana_copy / "transforms_biased3.json")
    for photo in (banana_copy / "images").iterdir():  # rounded up, where nerfstudio rounds the cameras down
        half = banana_copy / "images_2" / photo.name
        half.parent.mkdir(exist_ok=True)
        with Image.open(photo) as opened:
            opened.resize((240, 160)).save(half)
    for factor, size in ((0.5, (63, 96)), (2, (15, 24))):
        render("dataset", run, tmp_path / str(factor), "--downscale-factor", factor, "--image-format", "png")
        files = [*(tmp_path / str(factor) / "test" / "rgb_enhanced").iterdir()]
        assert [pixels(file).shape for file in files] == [(*size, 3)] * 5
    assert sum(with_reference for _, with_reference in batches) == 2 * 5


@pytest.mark.parametrize("kind", ["plain", "distorted-masked"])
def test_photos_are_scaled_with_their_views_if_there_is_no_folder_of_that_size(
    difix3d_run_on, tmp_path: Path, batches: list, kind: str
) -> None:
    run = difix3d_run_on(scene_of_photos(tmp_path / "scene", kind, size=(480, 320)))
    names = ["--rendered-output-names", "rgb_enhanced", "gt-rgb", "--image-format", "png"]
    render("dataset", run, tmp_path / "out", "--downscale-factor", 0.5, *names)
    files = sorted((tmp_path / "out").rglob("*.png"))
    sizes = {pixels(file).shape for file in files}
    assert len(files) == 2 * 5 and len(sizes) == 1 and (kind != "plain" or sizes == {(64, 96, 3)})
    assert sum(with_reference for _, with_reference in batches) == 5


@pytest.mark.parametrize("folder", ["missing", "there"])
def test_views_are_enhanced_at_half_the_size_with_and_without_a_folder_of_smaller_photos(
    difix3d_run_on, tmp_path: Path, batches: list, folder: str
) -> None:
    scene = scene_of_photos(tmp_path / "scene", size=(480, 320))
    run = difix3d_run_on(scene)
    if folder == "there":
        (scene.parent / "images_2").mkdir()
        for photo in (scene.parent / "images").iterdir():
            Image.new("RGB", (240, 160), (255, 0, 0)).save(scene.parent / "images_2" / photo.name)
    names = ["--rendered-output-names", "rgb", "rgb_enhanced", "gt-rgb", "--image-format", "png"]
    render("dataset", run, tmp_path / "out", "--downscale-factor", 2, *names)
    written = {name: [pixels(file) for file in sorted((tmp_path / "out/test" / name).iterdir())] for name in names[1:4]}
    assert {image.shape for images in written.values() for image in images} == {(16, 24, 3)}
    for raw, enhanced in zip(written["rgb"], written["rgb_enhanced"], strict=True):
        assert np.abs(enhanced - np.clip(raw + 0.2, 0, 1)).max() < 1.01 / 255
    assert sum(with_reference for _, with_reference in batches) == 5
    red = [bool((photo == (1, 0, 0)).all()) for photo in written["gt-rgb"]]
    assert red == [folder == "there"] * 5


def test_views_without_their_photos_are_rendered_but_not_what_shows_the_photos(
    difix3d_run: Path, banana_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(banana_copy / "images")
    scene = ["--data", banana_copy / "transforms_biased3.json"]
    render("dataset", difix3d_run, tmp_path / "out", *scene, "--rendered-output-names", "rgb")
    assert {pixels(file).shape for file in (tmp_path / "out" / "test" / "rgb").iterdir()} == {(*FRAME_SIZE, 3)}
    assert " ".join(capsys.readouterr().out.split()).count("are taken from the scene's file") == 1
    with pytest.raises(SystemExit, match=r"DSC_\d+\.\w+ is missing"):
        render("dataset", difix3d_run, tmp_path / "photos", *scene, "--rendered-output-names", "rgb", "gt-rgb")
    assert not (tmp_path / "photos").exists()


def test_a_photo_that_is_missing_is_not_called_damaged(difix3d_run_on, tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path / "scene", size=(480, 320))
    run = difix3d_run_on(scene)
    (scene.parent / "images_2").mkdir()
    missing = scene.parent / "images_2" / Path(json.loads(scene.read_text())["test_filenames"][0]).name
    for photo in (scene.parent / "images").iterdir():
        if photo.name != missing.name:
            Image.new("RGB", (240, 160)).save(missing.with_name(photo.name))
    with pytest.raises(SystemExit, match=rf"the photo {missing} is missing: put it back, or leave out the outputs gt-"):
        render("dataset", run, tmp_path / "out", "--downscale-factor", 2, "--rendered-output-names", "gt-rgb")


def test_values_of_rgba_are_written_and_an_output_may_be_named_twice(difix3d_run: Path, tmp_path: Path) -> None:
    render("dataset", difix3d_run, tmp_path / "out", "--rendered-output-names", "raw-rgba", "rgb", "rgb")
    with gzip.open(next((tmp_path / "out" / "test" / "raw-rgba").iterdir())) as file:
        values = np.load(file)
    assert values.shape == (*FRAME_SIZE, 4) and 0 < values[..., 3].max() <= 1
    assert len([*(tmp_path / "out" / "test" / "rgb").iterdir()]) == 5


def test_an_unknown_output_is_refused_before_a_view_is_written(difix3d_run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no output dpeth: .* depth"):
        render("dataset", difix3d_run, tmp_path / "out", "--rendered-output-names", "rgb", "dpeth")
    assert not (tmp_path / "out").exists()


def test_photos_that_differ_by_extension_only_get_an_image_each(difix3d_run_on, tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path / "scene", size=(480, 320))

    def rename_second(content: dict[str, Any]) -> None:
        first, second, *others = content["test_filenames"]
        renamed = str(Path(first).with_suffix(".jpg"))
        (scene.parent / second).rename(scene.parent / renamed)
        for frame in content["frames"]:
            if frame["file_path"] == second:
                frame["file_path"] = renamed
        content["test_filenames"] = [first, renamed, *others]
        content["val_filenames"] = content["test_filenames"]

    run = difix3d_run_on(edited(scene, rename_second))
    names = ["--rendered-output-names", "rgb", "raw-depth", "gt-rgb"]
    render("dataset", run, tmp_path / "out", *names, "--image-format", "png")
    files = [Path(name) for name in json.loads(scene.read_text())["test_filenames"]]
    stems = {files[0].name, files[1].name, *(file.stem for file in files[2:])}
    assert len(stems) == 5
    for name, suffix in (("rgb", ".png"), ("raw-depth", ".npy.gz"), ("gt-rgb", ".png")):
        assert {path.name for path in (tmp_path / "out" / "test" / name).iterdir()} == {f"{s}{suffix}" for s in stems}
    for file in files[:2]:
        written = pixels(tmp_path / "out" / "test" / "gt-rgb" / f"{file.name}.png")
        assert np.abs(written.mean(axis=(0, 1)) - pixels(scene.parent / file).mean(axis=(0, 1))).max() < 0.01


def test_a_run_of_this_packages_nerfacto_renders_how_well_pixels_are_known(
    difix3d_nerfacto_run: Path, tmp_path: Path
) -> None:
    names = ["--rendered-output-names", "rgb", "coverage", "raw-coverage"]
    render("dataset", difix3d_nerfacto_run, tmp_path / "out", *names, "--image-format", "png")
    written = tmp_path / "out" / "test"
    assert {name: len(list((written / name).iterdir())) for name in names[1:]} == dict.fromkeys(names[1:], 5)
    run = load_run(difix3d_nerfacto_run, RunOptions())
    assert isinstance(run.model, Difix3DNerfactoModel)
    camera = run.cameras("test")[:1]
    accumulation = run.model.get_outputs_for_camera(camera)["accumulation"]
    expected = Coverage(run.model, run.cameras("train"))(camera, accumulation)
    with gzip.open(min((written / "raw-coverage").iterdir())) as file:
        found = np.load(file)
    assert found.std() > 0.01 and np.allclose(found, expected.numpy(), atol=1e-4)


def test_a_moved_run_is_found_beside_its_config(splatfacto_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(splatfacto_run.parent, tmp_path / "elsewhere"))
    shutil.rmtree(splatfacto_run.parent)
    render("spiral", moved / "config.yml", tmp_path / "out", "--seconds", 0.05, "--output-format", "images")
    assert (tmp_path / "out" / "00000.jpg").exists()


def test_without_photos_frames_are_enhanced_without_references(
    difix3d_run: Path, banana_copy: Path, tmp_path: Path, batches: list, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree(banana_copy / "images")
    scene = banana_copy / "transforms_biased3.json"
    images = ["--output-format", "images", "--seconds", 0.1, "--data", scene]
    render("spiral", difix3d_run, tmp_path / "out", *images)
    assert len(list((tmp_path / "out").iterdir())) == 2 and batches == [(2, 0)]
    assert "enhanced without a reference" in " ".join(capsys.readouterr().out.split())


def test_existing_files_are_replaced_only_on_request(splatfacto_run: Path, tmp_path: Path) -> None:
    old = tmp_path / "out" / "00000.jpg"
    old.parent.mkdir()
    old.write_bytes(b"old")
    images = ["--output-format", "images", "--seconds", 0.05]
    with pytest.raises(SystemExit, match="--overwrite True"):
        render("spiral", splatfacto_run, tmp_path / "out", *images)
    assert old.read_bytes() == b"old"
    render("spiral", splatfacto_run, tmp_path / "out", *images, "--overwrite", "True")
    assert pixels(old).shape == (*FRAME_SIZE, 3)


@pytest.mark.parametrize("strength", [0, 1])
def test_clearing_is_announced_only_where_it_changes_frames(
    splatfacto_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], strength: int
) -> None:
    settings = ["--difix.model", "embedded", "--difix.strength", strength]
    render("spiral", splatfacto_run, tmp_path / "out", "--output-format", "images", "--seconds", 0.05, *settings)
    assert ("neither fog nor sharp" in " ".join(capsys.readouterr().out.split())) is (strength == 1)


def test_files_that_appear_during_a_render_are_kept(
    splatfacto_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = Run.render

    def late(self, *arguments, **settings):
        for name in ("frames/00000.jpg", "views/test/rgb/DSC_0423.jpg", "views/test/raw-depth/DSC_0423.npy.gz"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"theirs")
        (tmp_path / "video.mp4").write_bytes(b"theirs")
        return rendered(self, *arguments, **settings)

    monkeypatch.setattr(Run, "render", late)
    for name, file, subcommand, *options in (
        ("frames", "00000.jpg", "spiral", "--output-format", "images", "--seconds", 0.05),
        ("video.mp4", "", "spiral", "--seconds", 0.05),
        ("views", "test/rgb/DSC_0423.jpg", "dataset", "--rendered-output-names", "rgb"),
        ("views", "test/raw-depth/DSC_0423.npy.gz", "dataset", "--rendered-output-names", "raw-depth"),
    ):
        shutil.rmtree(tmp_path / "views", ignore_errors=True)
        with pytest.raises(SystemExit, match=r"already exists|is not replaced"):
            render(subcommand, splatfacto_run, tmp_path / name, *options)
        assert (tmp_path / name / file).read_bytes() == b"theirs"
        (tmp_path / "frames" / "00000.jpg").unlink()
        (tmp_path / "video.mp4").unlink()
    assert len(VideoReader(tmp_path / "video-2.mp4")) == 1


def test_images_of_another_format_are_replaced_too_on_request_and_nothing_else(
    difix3d_run: Path, tmp_path: Path
) -> None:
    for name, subcommand, folder, *options in (
        ("frames", "spiral", "frames", "--output-format", "images", "--seconds", 0.1),
        ("views", "dataset", "views/test/rgb"),
    ):
        names = ["--rendered-output-names", "rgb"]
        render(subcommand, difix3d_run, tmp_path / name, *names, *options, "--image-format", "jpeg")
        images = {file.stem for file in (tmp_path / folder).iterdir()}
        stem = min(images)
        others = {"notes.jpg", f"{stem}.txt", f"{stem}.webp", f"{stem}0.jpg"}
        for other in others:
            (tmp_path / folder / other).write_text("mine")
        render(
            subcommand, difix3d_run, tmp_path / name, *names, *options, "--image-format", "png", "--overwrite", "True"
        )
        assert {file.name for file in (tmp_path / folder).iterdir()} == {f"{image}.png" for image in images} | others
        assert all((tmp_path / folder / other).read_text() == "mine" for other in others)


def test_a_full_disk_leaves_only_whole_files(
    difix3d_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(part: Path, file: Path) -> None:
        if Path(file).name.startswith(("00001", "DSC_0424")):  # the second frame, and the second view
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(part, file)

    monkeypatch.setattr(os, "replace", full)
    for name, subcommand, *options in (
        ("frames", "spiral", "--rendered-output-names", "rgb", "--output-format", "images", "--seconds", 0.1),
        ("views", "dataset", "--rendered-output-names", "rgb"),
        ("depths", "dataset", "--rendered-output-names", "raw-depth"),
    ):
        with pytest.raises(SystemExit, match="no space is left on its disk: free some, and start the command again"):
            render(subcommand, difix3d_run, tmp_path / name, *options)
        written = [file.name for file in (tmp_path / name).rglob("*") if file.is_file()]
        assert written in (["00000.jpg"], ["DSC_0423.jpg"], ["DSC_0423.npy.gz"])


def test_images_of_an_earlier_longer_path_are_told_of(
    splatfacto_run: Path, tmp_path: Path, camera_path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output-format", "images", "--rendered-output-names", "rgb", "--overwrite", "True"]
    longer, shorter = tmp_path / "longer.json", tmp_path / "shorter.json"
    camera_path().rename(longer)
    edited(camera_path(), lambda content: content["camera_path"].pop()).rename(shorter)
    for path, is_told in ((longer, False), (longer, False), (shorter, True)):
        render("camera-path", splatfacto_run, tmp_path / "out", "--camera-path-filename", path, *options)
        told = "out also holds images of an earlier, longer path, from 00002 on: 1."
        assert (told in " ".join(capsys.readouterr().out.split())) is is_told
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_an_existing_video_survives_an_error(splatfacto_run: Path, tmp_path: Path) -> None:
    old = tmp_path / "out.mp4"
    old.write_bytes(b"old")
    options = ["--seconds", 0.05, "--overwrite", "True", "--rendered-output-names", "nothing"]
    with pytest.raises(SystemExit, match=r"there is no output nothing: .* rgb, .*rgb_enhanced"):
        render("spiral", splatfacto_run, old, *options)
    assert [old.read_bytes()] == [b"old"] and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--load-config", "{}/nowhere/config.yml"], "cannot be read: give a run's config.yml"),
        (["--load-config", "{}"], "is a folder: give"),
        (["--load-config", "{}/other.yml"], "is not the config of a nerfstudio run"),
        (["--load-config", "{}/unknown.yml"], "method unknown, which is not installed"),
        (["--data", "{}/nowhere"], "cannot be loaded: .*nowhere"),
        (["--difix.model", "{}/no/network"], "no/network"),
        (["--rendered-output-names", "rgba"], "--image-format png"),
        (["--downscale-factor", "0"], "--downscale-factor is 0"),
        (["--seconds", "0"], "raise --seconds"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    splatfacto_run: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "other.yml").write_text("pictures: []")
    text = splatfacto_run.read_text().replace("method_name: splatfacto", "method_name: unknown")
    (tmp_path / "unknown.yml").write_text(text)
    with pytest.raises(SystemExit, match=sentence) as caught:
        render("spiral", splatfacto_run, tmp_path / "out", *(each.format(tmp_path) for each in arguments))
    assert str(caught.value).startswith("\ndifix3d: ") and "\n" not in str(caught.value).strip()
    assert not (tmp_path / "out").exists()


def test_a_run_without_checkpoint_ends_in_one_sentence(splatfacto_run: Path, tmp_path: Path) -> None:
    (saved,) = (splatfacto_run.parent / "nerfstudio_models").iterdir()
    saved.unlink()
    with pytest.raises(SystemExit, match=r"has no checkpoint in .*nerfstudio_models"):
        render("spiral", splatfacto_run, tmp_path / "out")


def test_a_checkpoint_of_another_implementation_is_not_rendered_as_noise(nerfacto_run: Path, tmp_path: Path) -> None:
    (saved,) = (nerfacto_run.parent / "nerfstudio_models").iterdir()
    state = torch.load(saved)
    state["pipeline"] = {name: value for name, value in state["pipeline"].items() if "mlp_head" not in name}
    torch.save(state, saved)
    with pytest.raises(SystemExit, match=r"lacks .* another implementation"):
        render("spiral", nerfacto_run, tmp_path / "out")


def test_a_splat_is_not_rendered_by_equirectangular_cameras(splatfacto_run: Path, tmp_path: Path, camera_path) -> None:
    path = camera_path(camera_type="equirectangular")
    with pytest.raises(SystemExit, match="perspective"):
        render("camera-path", splatfacto_run, tmp_path / "out", "--camera-path-filename", path)
