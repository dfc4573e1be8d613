"""`ns-difix enhance` with a tiny network: what it writes, what an interruption leaves, and what it refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from videos.footage import make_pictures, make_video, packets, pixels, with_unknown_audio

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.picture_files import read_picture
from difix3d_ns.videos.reader import VideoReader

Run = Callable[..., str]
Interrupt = Callable[[int], None]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_each_image_becomes_the_output_of_the_network(run: Run, model: str, tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "in", 5)
    printed = run(tmp_path / "in", tmp_path / "out")
    fixer = LazyFixer(DifixConfig(model=model), "cpu")
    for file in files:
        expected = fixer.clean([read_picture(file).rgb])[0].numpy() * 255
        assert abs(pixels(tmp_path / "out" / file.name) - expected).max() <= 0.51
    assert f"Difix: {model}, as configured." in printed
    assert re.search(r"5 frames cleaned in [\d.]+ s \([\d.]+ frames/s\)", printed)
    assert "ns-difix render" not in printed
    assert len(contents(tmp_path / "out")) == 5


def test_a_network_that_needs_aligned_references_says_that_it_changed_nothing(run: Run, tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "in", 2)
    (photo,) = make_pictures(tmp_path / "photo", 1, (20, 20))
    printed = run(tmp_path / "in", tmp_path / "out", model="embedded", reference=photo)
    assert re.search(r"2 frames written without a change in [\d.]+ s", printed) and "cleaned" not in printed
    assert printed.endswith("which frames lack: clean them with ns-difix render, or with another --model.")
    for file in files:
        assert np.array_equal(pixels(tmp_path / "out" / file.name), pixels(file))


def test_one_folder_may_mix_sizes_bits_alpha_and_gray(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_pictures(folder, 2)
    cv2.imwrite(str(folder / "deep.png"), np.full((10, 13, 3), 30_000, np.uint16))
    Image.new("L", (20, 9), 90).save(folder / "gray.png")
    rgba = np.full((12, 12, 4), [200, 90, 40, 0], np.uint8)
    rgba[:6, :, 3] = 255
    Image.fromarray(rgba).save(folder / "alpha.webp", lossless=True, exact=True)
    Image.new("RGB", (33, 17), "red").save(folder / "photo.jpg")
    run(folder, tmp_path / "out")
    for file in folder.iterdir():
        before, after = read_picture(file), read_picture(tmp_path / "out" / file.name)
        assert (before.rgb.shape, before.deep, before.gray) == (after.rgb.shape, after.deep, after.gray), file.name
        assert (before.rgb - after.rgb).abs().max() > 0.02, file.name
    after = read_picture(tmp_path / "out" / "alpha.webp")
    assert after.alpha is not None and np.array_equal(after.alpha, rgba[..., 3])


def test_one_image_is_written_in_another_format(run: Run, tmp_path: Path) -> None:
    (file,) = make_pictures(tmp_path, 1)
    run(file, tmp_path / "deep" / "out.webp")
    with Image.open(tmp_path / "deep" / "out.webp") as image:
        assert (image.format, image.size) == ("WEBP", (24, 16))
    run(file, tmp_path / "folder", image_format="jpg")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["frame_0.jpg"]


def test_brackets_in_names_are_printed(run: Run, model: str, tmp_path: Path) -> None:
    make_pictures(tmp_path / "in [take]", 2)
    (tmp_path / "in [take]" / "bad [x].png").write_bytes(b"nothing")
    out = tmp_path / "out [bold]"
    network = str(shutil.copytree(model, tmp_path / "model [v]"))
    options = {"skip_bad": True, "reference": tmp_path / "in [take]" / "frame_0.png", "model": network}
    printed = run(tmp_path / "in [take]", out, **options)
    assert "Difix: loaded model [v] in " in printed
    assert "of in [take] into out [bold]." in printed and "out [bold]; 1 could not be read" in printed
    assert "Skipped: the image in [take]/bad [x].png cannot be read" in printed
    assert "References: in [take]/frame_0.png" in printed
    (tmp_path / "in [take]" / "bad [x].png").unlink()
    assert "already in out [bold]." in run(tmp_path / "in [take]", out, resume=True)


@pytest.mark.parametrize("previous", [False, True])
def test_interrupted_images_resume_to_the_same_result(
    run: Run, interrupt: Interrupt, tmp_path: Path, previous: bool
) -> None:
    make_pictures(tmp_path / "in", 7)
    options = {"previous_frame_as_reference": previous}
    run(tmp_path / "in", tmp_path / "whole", **options)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out", **options)
    finished = contents(tmp_path / "out")
    assert set(finished) == {f"frame_{index}.png" for index in range(4)}
    with pytest.raises(Difix3DError, match=r"out is not empty: add --resume"):
        run(tmp_path / "in", tmp_path / "out", **options)
    assert contents(tmp_path / "out") == finished
    (tmp_path / "out" / "frame_1.png").unlink()  # from the middle of a batch
    run(tmp_path / "in", tmp_path / "out", resume=True, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert "already" in run(tmp_path / "in", tmp_path / "out", resume=True, **options)


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize("times", [None, [20 * index + 7 * (index % 3) for index in range(11)]])
def test_an_interrupted_video_resumes_to_the_same_file(
    run: Run, interrupt: Interrupt, tmp_path: Path, previous: bool, times: list[int] | None
) -> None:
    video = make_video(tmp_path / "in.mp4", 11, (16, 24), times=times)
    options = {"previous_frame_as_reference": previous, "frames_per_piece": 3}
    run(video, tmp_path / "whole.mp4", **options)
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        run(video, tmp_path / "out.mp4", **options)
    pieces = tmp_path / "out.mp4.unfinished"
    coded = sorted(path.name for path in pieces.glob("*.nut"))
    assert coded == ["frame_0000001.nut", "frame_0000004.nut"]
    assert not list(pieces.glob("*.part")) and not (tmp_path / "out.mp4").exists()
    with pytest.raises(Difix3DError, match="add --resume to continue it"):
        run(video, tmp_path / "out.mp4", **options)
    with pytest.raises(Difix3DError, match=r"made with other options \(--crf was 17, now 30\)"):
        run(video, tmp_path / "out.mp4", resume=True, crf=30, **options)
    assert "6 of them finished earlier" in run(video, tmp_path / "out.mp4", resume=True, **options)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not pieces.exists()
    assert "already" in run(video, tmp_path / "out.mp4", resume=True, **options)


def test_a_video_keeps_frames_times_and_audio(run: Run, model: str, tmp_path: Path) -> None:
    times = [0, 20, 80, 100, 160, 180, 300, 320]
    video = make_video(tmp_path / "in.mp4", 8, (15, 24), times=times, pix_fmt="yuv444p")
    run(video, tmp_path / "out.mp4", frames_per_piece=3, crf=0)
    before, after = VideoReader(video), VideoReader(tmp_path / "out.mp4")
    assert [time * before.time_base for time in before.times] == [time * after.time_base for time in after.times]
    assert packets(video, "audio") == packets(tmp_path / "out.mp4", "audio")
    fixer = LazyFixer(DifixConfig(model=model), "cpu")
    for given, cleaned in zip(before, after, strict=True):
        assert (fixer.clean([given])[0] - cleaned).abs().max() < 0.03
    run(video, tmp_path / "silent.mkv", audio=False)
    with pytest.raises(StopIteration):
        packets(tmp_path / "silent.mkv", "audio")


def test_audio_of_an_unknown_codec_is_left_out_of_a_cleaned_video(run: Run, tmp_path: Path) -> None:
    video = with_unknown_audio(make_video(tmp_path / "in.mov", 5, (16, 24)))
    printed = run(video, tmp_path / "out.mov", frames_per_piece=3)
    assert "5 frames cleaned" in printed and "audio of an unknown codec" in printed
    assert len(VideoReader(tmp_path / "out.mov")) == 5
    with pytest.raises(StopIteration):
        packets(tmp_path / "out.mov", "audio")


def test_a_video_becomes_images_and_images_a_video(run: Run, tmp_path: Path) -> None:
    video = make_video(tmp_path / "in.mkv", 4, (15, 23), pix_fmt="yuv444p")
    run(video, tmp_path / "frames")
    assert sorted(contents(tmp_path / "frames")) == [f"frame_{index:05d}.png" for index in range(1, 5)]
    run(tmp_path / "frames", tmp_path / "out.mov", fps=12.5)
    made = VideoReader(tmp_path / "out.mov")
    assert (len(made), float(made.fps), made.height, made.width) == (4, 12.5, 15, 23)


def test_references_reach_the_network_frame_by_frame(run: Run, model: str, tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "in", 3)
    photos = make_pictures(tmp_path / "photos", 6, (20, 20))[3:]
    for photo in sorted((tmp_path / "photos").iterdir())[:3]:
        photo.unlink()
    assert "matched by order" in run(tmp_path / "in", tmp_path / "out", reference=tmp_path / "photos")
    fixer = LazyFixer(DifixConfig(model=model), "cpu")
    for file, photo in zip(files, photos, strict=True):
        expected = fixer.clean([read_picture(file).rgb], [read_picture(photo).rgb])[0]
        assert (read_picture(tmp_path / "out" / file.name).rgb - expected).abs().max() < 0.51 / 255 + 1e-4


def test_the_previous_frame_is_the_reference_on_request(run: Run, model: str, tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "in", 3)
    (photo,) = make_pictures(tmp_path / "photo", 1, (20, 20))
    run(tmp_path / "in", tmp_path / "out", reference=photo, previous_frame_as_reference=True)
    fixer = LazyFixer(DifixConfig(model=model), "cpu")
    for file in files:
        expected = fixer.clean([read_picture(file).rgb], [read_picture(photo).rgb])[0]
        photo = tmp_path / "out" / file.name
        assert (read_picture(photo).rgb - expected).abs().max() < 0.51 / 255 + 1e-4


def test_a_broken_image_is_named_and_finished_ones_are_kept(run: Run, tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "in", 7)
    files[5].write_text("broken")
    with pytest.raises(Difix3DError, match=r"frame_5\.png cannot be read .*--skip-bad"):
        run(tmp_path / "in", tmp_path / "out")
    assert len(contents(tmp_path / "out")) >= 4
    printed = run(tmp_path / "in", tmp_path / "out", resume=True, skip_bad=True)
    assert "Skipped: the image" in printed and "1 could not be read" in printed
    assert len(contents(tmp_path / "out")) == 6


@pytest.mark.parametrize("previous", [False, True])
def test_a_video_skips_broken_images_and_keeps_its_times(run: Run, tmp_path: Path, previous: bool) -> None:
    files = make_pictures(tmp_path / "in", 9)
    for index in (0, 3, 4, 5, 7):
        files[index].write_text("broken")
    options = {"frames_per_piece": 3, "previous_frame_as_reference": previous}
    run(tmp_path / "in", tmp_path / "out.mp4", fps=10, skip_bad=True, **options)
    video = VideoReader(tmp_path / "out.mp4")
    shown = [round(float(time * video.time_base) * 10) for time in video.times]
    assert [time - shown[0] for time in shown] == [0, 1, 5, 7]


def test_a_full_disk_is_reported_and_leaves_no_half_written_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "in", 6)
    replace, left = os.replace, 2

    def full(part: Path, file: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(part, file)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Difix3DError, match="no space is left on its disk: free some, and add --resume"):
        run(tmp_path / "in", tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").glob("*.part"))


def test_an_unusable_result_is_reported_with_its_frames(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difix3d_ns.difix.pipeline import DifixPipeline

    make_pictures(tmp_path / "in", 2)
    monkeypatch.setattr(DifixPipeline, "decode", lambda self, latents, *_: torch.full((2, 3, 16, 24), float("nan")))
    with pytest.raises(Difix3DError, match=r"frame_0\.png to frame_1\.png cannot be cleaned: the network returned NaN"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "output", "options", "sentence"),
    [
        ("in", "in/out", {}, "is inside the input folder"),
        ("in", "in", {}, "is inside the input folder"),
        ("in/*.png", "in", {"resume": True}, "is also an input"),
        ("in/frame_0.png", "in/frame_0.png", {"resume": True}, "is also an input"),
        ("in/frame_0.png", "taken.png", {}, "taken.png already exists: add --resume"),
        ("in", "out.png", {}, "cannot be written as .*out.png: give a folder or a video"),
        ("in/frame_0.png", "out.mp4", {}, "cannot be written as .*out.mp4: give an image or a folder"),
        ("in", "out.webm", {}, "out.webm has an unknown extension"),
        ("in", "out.mp4", {}, "images have no frame rate: add --fps"),
        ("in.mp4", "out.mp4", {"fps": 30.0}, "keeps its own frame times"),
        ("in.mp4", "taken.mp4", {}, "taken.mp4 already exists"),
        ("mixed", "out.mp4", {"fps": 30.0}, "the same size: frame_0.png has 24 x 16 pixels and other.png has 20 x 10"),
        ("double", "out", {"image_format": "jpg"}, "2 frames would be written to the same file a.jpg"),
        ("long", "out", {"image_format": "webp"}, "high.png has 16 x 65501 pixels, and .webp .* most 16383 on a side"),
        ("long", "out", {"image_format": "jpg"}, "high.png has 16 x 65501 pixels, and .jpg .* most 65500 on a side"),
        ("long/wide.png", "out.webp", {}, "wide.png has 16384 x 16 pixels"),
        ("nowhere", "out", {}, "nowhere is missing"),
        ("in", "out", {"model": "nowhere/at/all"}, "nowhere"),
        ("in", "taken.png/out", {}, "taken.png/out cannot be written"),
        ("in", "out", {"fps": 0.0}, "--fps"),
        ("in", "out", {"crf": 60}, "--crf"),
        ("in", "out", {"strength": 2.0}, "--strength"),
        ("in", "out", {"frames_per_piece": 0}, "--frames-per-piece"),
        ("in", "out", {"max_pixels_per_batch": 0}, "--max-pixels-per-batch"),
        ("in", "out", {"camera_path": Path("path.json")}, "--camera-path"),
    ],
)
def test_an_invalid_request_ends_in_one_sentence_and_changes_nothing(
    run: Run, tmp_path: Path, given: str, output: str, options: dict, sentence: str
) -> None:
    make_pictures(tmp_path / "in", 2)
    make_pictures(tmp_path / "mixed", 1)
    Image.new("RGB", (20, 10)).save(tmp_path / "mixed" / "other.png")
    (tmp_path / "double").mkdir()
    for name in ("a.png", "a.webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / "double" / name)
    (tmp_path / "long").mkdir()
    for name, size in (("high", (16, 65501)), ("wide", (16384, 16))):
        Image.new("L", size).save(tmp_path / "long" / f"{name}.png")
    make_video(tmp_path / "in.mp4", 2, (16, 24))
    for name in ("taken.png", "taken.mp4"):
        (tmp_path / name).write_text("taken")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Difix3DError, match=sentence) as caught:
        run(tmp_path / given, tmp_path / output, **options)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_every_option_of_the_network_is_offered_except_two() -> None:
    # References are given by --reference, and nothing else uses the GPU while frames are cleaned.
    left_out = {"use_reference", "offload"}
    offered = {field.name for field in fields(EnhanceConfig)}
    assert {field.name for field in fields(DifixConfig)} - offered == left_out
    changed = EnhanceConfig(Path(), Path(), model="m", revision="r", base="b", dtype="float16", strength=0.5)
    changed.compile = True
    changed.max_pixels_per_batch = 7
    expected = DifixConfig("m", "r", "b", "float16", max_pixels_per_batch=7, strength=0.5, compile=True)
    assert changed.network() == expected


@pytest.mark.parametrize(
    ("given", "output", "options", "sentence"),
    [
        ("in", "out", {"fps": 30.0}, "--fps is only for a video made from images"),
        ("in.mp4", "out", {"fps": 30.0}, "--fps is only for a video made from images"),
        ("in", "out.mp4", {"fps": 1e-6}, "--fps must be from 0.001"),
        ("in", "out", {"crf": 30}, "--crf is only for a video as output"),
        ("in", "out", {"frames_per_piece": 4}, "--frames-per-piece is only for a video"),
        ("in", "out", {"video_bits": "8"}, "--video-bits is only for a video"),
        ("in", "out", {"audio": False}, "--no-audio is only for a video made from a video"),
        ("in", "out.mp4", {"audio": False, "fps": 30.0}, "--no-audio is only for a video made from a video"),
        ("in", "out.mp4", {"image_format": "png", "fps": 30.0}, "--image-format is only for a folder"),
        ("in.mp4", "out.mkv", {"image_format": "png"}, "--image-format is only for a folder"),
        ("in", "out", {"revision": "v1"}, "--revision is only for files from the hub"),
        ("in", "out", {"base": "a/b"}, "--base is only for a network in a .pkl file"),
        ("in", "out", {"model": "identity", "dtype": "float16"}, "--dtype has no effect with the network identity"),
    ],
)
def test_an_option_without_effect_is_refused_in_one_sentence(
    run: Run, tmp_path: Path, given: str, output: str, options: dict, sentence: str
) -> None:
    make_pictures(tmp_path / "in", 2)
    if given.endswith(".mp4"):
        make_video(tmp_path / given, 2, (16, 24))
    with pytest.raises(Difix3DError) as caught:
        run(tmp_path / given, tmp_path / output, **options)
    assert sentence in str(caught.value) and not (tmp_path / output).exists()
