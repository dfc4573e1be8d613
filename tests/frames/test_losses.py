"""Alpha, bit depth, gray and colours from one kind of file to another, and the sentence about each loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from videos.footage import make_pictures, make_video, ramp, scene_frame, veiled

from difix3d_ns.frames.picture_files import read_picture
from difix3d_ns.frames.sources import open_source
from difix3d_ns.videos.reader import VideoReader

Run = Callable[..., str]
Interrupt = Callable[[int], None]

UNCHANGED = {"strength": 0.0}
"""Options with which the network's result is the input, so that values can be compared."""
VP9 = {"codec": "libvpx-vp9", "pix_fmt": "yuva420p", "options": {"crf": "10", "b": "0", "auto-alt-ref": "0"}}
PRORES = {"codec": "prores_ks", "pix_fmt": "yuva444p10le", "options": {"profile": "4444"}}
PNG_VIDEO = {"codec": "png", "pix_fmt": "rgba"}
ANIMATION = {"codec": "qtrle", "pix_fmt": "argb"}
SIZE = (32, 48)
FADE = np.linspace(1, 0, SIZE[0])[:, None]
"""The alpha of `veiled`."""
QUIET = (
    "Transparent", "bits", "dropped", "written as", "not copied", "Colours", "HDR", "interlaced", "CMYK", "Only the",
)  # fmt: skip
"""Words of the sentences about losses."""


def transparent_video(file: Path, kind: dict, **more: object) -> Path:
    return make_video(file, 5, SIZE, audio=None, draw=veiled, **{**kind, **more})


def save_ramp(folder: Path, num: int = 3, width: int = 1024) -> np.ndarray:
    """Writes 16-bit gray ramps as RGB PNG files; returns the values of one."""
    folder.mkdir()
    values = np.repeat((ramp(0, 8, width).numpy() * 65535).round().astype(np.uint16), 1, axis=2)
    for index in range(num):
        cv2.imwrite(str(folder / f"deep_{index}.png"), values)
    return values


def codec(file: Path) -> tuple[str, str]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.codec_context.pix_fmt


def levels(file: Path) -> int:
    """Number of different green values in the first frame of a video or in an image."""
    (_, (frame, *_)), *_ = open_source(file).read([range(1)])
    return len(np.unique((frame.picture.rgb[..., 1] * 65535).round().numpy()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.webm", VP9), ("a.mkv", VP9), ("b.webm", {**VP9, "codec": "libvpx"}), ("a.mov", PRORES),
        ("b.mov", PNG_VIDEO), ("c.mov", ANIMATION), ("d.mov", {**PNG_VIDEO, "pix_fmt": "rgba64be"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("image_format", ["same", "tif", "webp"])
def test_the_alpha_of_a_video_is_kept_in_images(
    run: Run, tmp_path: Path, name: str, kind: dict, image_format: str
) -> None:
    video = transparent_video(tmp_path / name, kind)
    printed = run(video, tmp_path / "out", image_format=image_format, **UNCHANGED)
    assert "Transparent" not in printed
    lossy = 0.03 if "vpx" in kind["codec"] or image_format == "webp" else 0.005
    for index, file in enumerate(sorted((tmp_path / "out").iterdir())):
        picture = read_picture(file)
        opacity = np.asarray(picture.opacity)[..., 0]
        assert abs(opacity - FADE).max() < (0.005 if lossy < 0.03 else 0.02)
        visible = picture.rgb[:24] - scene_frame(index, *SIZE)[:24]  # WebP and VP9 may change what is nearly hidden
        assert visible.abs().mean() < lossy
        deep = kind["pix_fmt"] in ("yuva444p10le", "rgba64be")
        assert picture.deep == (deep and image_format != "webp")
        assert ("bits per channel become 8" in printed) == (deep and image_format == "webp")


@pytest.mark.parametrize(("kind", "bits"), [(VP9, 8), (PRORES, 10), (ANIMATION, 8)])
@pytest.mark.parametrize(
    ("output", "written"),
    [("out.mov", "10-bit ProRes 4444"), ("out.mkv", "8-bit VP9"), ("out.mp4", None), ("out.m4v", None)],
)
def test_the_alpha_of_a_video_is_kept_in_videos_or_said_to_be_dropped(
    run: Run, tmp_path: Path, kind: dict, bits: int, output: str, written: str | None
) -> None:
    video = transparent_video(tmp_path / f"in{'.webm' if kind is VP9 else '.mov'}", kind)
    printed = run(video, tmp_path / output, frames_per_piece=2, **UNCHANGED)
    made = VideoReader(tmp_path / output)
    assert len(made) == 5 and made.transparent == (written is not None)
    assert float(made.fps) == pytest.approx(30)
    if written is None:
        assert printed.count("Transparent pixels are composited over black") == 1
        assert "choose a .mov or .mkv video, or a folder" in printed
    else:
        assert f"written as {written} with alpha" in printed
        assert ("bits per channel become 8" in printed) == (bits == 10 and written == "8-bit VP9")
    for index, frame in enumerate(made):
        if written is not None:
            assert abs(frame[..., 3] - FADE).max() < 0.04
            assert (frame[:16, :, :3] - scene_frame(index, *SIZE)[:16]).abs().mean() < 0.03
        else:
            assert (frame - scene_frame(index, *SIZE) * FADE[..., None]).abs().mean() < 0.03


@pytest.mark.parametrize("times", [None, [20 * index + 7 * (index % 3) for index in range(11)]])
@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize(
    ("kind", "output"), [(VP9, "mkv"), (PRORES, "mov"), (PRORES, "mkv"), (PRORES, "mp4"), (VP9, "mov")]
)
def test_an_interrupted_transparent_video_resumes_to_the_same_file(
    run: Run, interrupt: Interrupt, tmp_path: Path, kind: dict, output: str, previous: bool, times: list[int] | None
) -> None:
    video = make_video(
        tmp_path / ("in.mkv" if kind is VP9 else "in.mov"), 11, (16, 24), audio=None, draw=veiled, times=times, **kind
    )
    options = {"previous_frame_as_reference": previous, "frames_per_piece": 3}
    run(video, tmp_path / f"whole.{output}", **options)
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        run(video, tmp_path / f"out.{output}", **options)
    assert "6 of them finished earlier" in run(video, tmp_path / f"out.{output}", resume=True, **options)
    assert (tmp_path / f"out.{output}").read_bytes() == (tmp_path / f"whole.{output}").read_bytes()
    before, after = VideoReader(video), VideoReader(tmp_path / f"out.{output}")
    start = after.times[0] * after.time_base - before.times[0] * before.time_base
    for old, new in zip(before.times, after.times, strict=True):
        assert float(new * after.time_base - old * before.time_base - start) == pytest.approx(0, abs=1.1e-3)


def test_an_opaque_alpha_channel_counts_as_none(run: Run, tmp_path: Path) -> None:
    opaque = lambda *where: torch.cat([scene_frame(*where), torch.ones(*where[1:], 1)], dim=2)  # noqa: E731
    video = make_video(tmp_path / "in.mov", 2, SIZE, audio=None, draw=opaque, **ANIMATION)
    assert "alpha" not in run(video, tmp_path / "out.mkv", **UNCHANGED)
    assert codec(tmp_path / "out.mkv") == ("h264", "yuv420p")
    make_pictures(tmp_path / "in", 2, SIZE)
    for file in (tmp_path / "in").iterdir():
        with Image.open(file) as image:
            image.convert("RGBA").save(file)
    assert "alpha" not in run(tmp_path / "in", tmp_path / "images.mov", fps=10, **UNCHANGED)
    assert codec(tmp_path / "images.mov")[0] == "h264"


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        ("a.mp4", {"codec": "libx264", "pix_fmt": "yuv420p10le", "options": {"crf": "1"}}),
        # Without B-frames, because x265 gives some of them wrong times at random.
        (
            "b.mp4",
            {
                "codec": "libx265",
                "pix_fmt": "yuv420p10le",
                "options": {"x265-params": "crf=1:log-level=none:bframes=0"},
            },
        ),
        ("c.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {"profile": "3"}}),
        ("d.mkv", {"codec": "ffv1", "pix_fmt": "gray10le"}),
        ("e.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p12le"}),
    ],
)
def test_ten_bits_are_kept_in_images_and_videos(run: Run, tmp_path: Path, name: str, coding: dict) -> None:
    size = (16, 1024)
    video = make_video(tmp_path / name, 2, size, audio=None, draw=ramp, **coding)
    assert "bits per channel" not in run(video, tmp_path / "png", **UNCHANGED)
    first = tmp_path / "png" / "frame_00001.png"
    assert read_picture(first).deep and read_picture(first).gray == ("gray" in coding["pix_fmt"])
    assert (read_picture(first).rgb - ramp(0, *size)).abs().mean() < 0.003
    assert levels(first) > 500
    printed = run(video, tmp_path / "out.mp4", crf=1, **UNCHANGED)
    assert codec(tmp_path / "out.mp4") == ("h264", "yuv420p10le") and levels(tmp_path / "out.mp4") > 500
    assert "written as 10-bit H.264" in printed
    assert ("12 bits per channel become 10" in printed) == ("12" in coding["pix_fmt"])
    assert (next(iter(VideoReader(tmp_path / "out.mp4"))) - ramp(0, *size)).abs().mean() < 0.004


def test_eight_bits_are_written_on_request_or_with_a_sentence(run: Run, tmp_path: Path) -> None:
    video = make_video(tmp_path / "in.mkv", 2, (16, 1024), audio=None, draw=ramp, codec="ffv1", pix_fmt="yuv420p10le")
    printed = run(video, tmp_path / "out.mp4", video_bits="8", **UNCHANGED)
    assert codec(tmp_path / "out.mp4") == ("h264", "yuv420p") and levels(tmp_path / "out.mp4") <= 256
    assert not any(word in printed for word in QUIET)
    for image_format in ("jpg", "webp"):
        printed = run(video, tmp_path / image_format, image_format=image_format, **UNCHANGED)
        assert printed.count(f"10 bits per channel become 8, because .{image_format} files hold no more") == 1
        assert levels(tmp_path / image_format / f"frame_00001.{image_format}") <= 256


@pytest.mark.parametrize("crf", [0, 1])
def test_sixteen_bit_images_through_a_video_and_back_keep_ten_bits(run: Run, tmp_path: Path, crf: int) -> None:
    values = save_ramp(tmp_path / "in")
    printed = run(tmp_path / "in", tmp_path / "out.mkv", fps=10, crf=crf, **UNCHANGED)
    assert "16 bits per channel become 10, because the video is written as 10-bit H.264" in printed
    run(tmp_path / "out.mkv", tmp_path / "back", **UNCHANGED)
    back = cv2.imread(str(tmp_path / "back" / "frame_00002.png"), cv2.IMREAD_UNCHANGED)
    assert back.dtype == np.uint16 and len(np.unique(back[..., 1])) > 500
    errors = abs(back.astype(int) - values) / 65535
    assert errors.max() < (0.0015 if crf == 0 else 0.02)


def test_gray_images_with_alpha_stay_gray_in_images_and_videos(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    alpha = (FADE * 255).round().astype(np.uint8).repeat(SIZE[1], 1)
    gray = (ramp(0, *SIZE)[..., 0].numpy() * 255).astype(np.uint8)
    for index in range(2):
        Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)]).save(tmp_path / "in" / f"{index}.png")
    run(tmp_path / "in", tmp_path / "out")  # the network of the test makes colours
    picture = read_picture(tmp_path / "out" / "0.png")
    assert picture.gray and np.array_equal(picture.alpha, alpha)
    run(tmp_path / "in", tmp_path / "out.mov", fps=10)
    run(tmp_path / "in", tmp_path / "out.mp4", fps=10, crf=1)
    frame = next(iter(VideoReader(tmp_path / "out.mov")))
    assert abs(frame[..., 3] - alpha / 255).max() < 0.005
    assert (frame[..., :3] - picture.rgb).abs().max() < 0.03
    for name in ("out.mov", "out.mp4"):
        frame = next(iter(VideoReader(tmp_path / name)))[..., :3]
        assert (frame - frame.mean(dim=2, keepdim=True)).abs().max() < 0.02
    gray_video = make_video(tmp_path / "gray.mkv", 2, SIZE, audio=None, codec="ffv1", pix_fmt="gray")
    run(gray_video, tmp_path / "gray")
    assert read_picture(tmp_path / "gray" / "frame_00001.png").gray


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp", "tif"])
def test_each_loss_of_images_is_said_once(run: Run, tmp_path: Path, image_format: str) -> None:
    folder = tmp_path / "in"
    make_pictures(folder, 3)
    rgba = np.full((12, 12, 4), [200, 90, 40, 100], np.uint8)
    Image.fromarray(rgba).save(folder / "alpha.png")
    Image.fromarray(rgba).save(folder / "sticker.webp", save_all=True, append_images=[Image.fromarray(rgba[::-1] // 2)])
    cv2.imwrite(str(folder / "deep.tif"), np.full((10, 13, 3), 30_001, np.uint16))
    Image.new("CMYK", (9, 9), (10, 90, 200, 0)).save(folder / "inks.jpg")
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    Image.new("RGB", (9, 9)).save(folder / "photo.jpg", exif=exif)
    printed = run(folder, tmp_path / "out", image_format=image_format, **UNCHANGED)
    expected = {
        "Only the first image of a file is cleaned (1 of 8 images)": True,
        "CMYK colours become RGB (1 of 8 images)": True,
        "EXIF data is not copied (1 of 8 images)": True,
        "composited over black (2 of 8 images), because .jpg files hold no alpha": image_format == "jpg",
        f"16 bits per channel become 8 (1 of 8 images), because .{image_format} files hold no more: to keep them, "
        "write PNG or TIFF files.": image_format in ("jpg", "webp"),
    }
    assert {sentence: printed.count(sentence) for sentence in expected} == expected


def test_nothing_is_said_where_nothing_is_lost(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_pictures(folder, 2)
    printed = run(folder, tmp_path / "out.mp4", fps=10)
    cv2.imwrite(str(folder / "deep.png"), np.full((10, 13, 4), 30_001, np.uint16))
    Image.new("LA", (12, 12), (90, 40)).save(folder / "gray.webp")
    printed += run(folder, tmp_path / "out")
    printed += run(make_video(tmp_path / "in.mp4", 2, SIZE), tmp_path / "video.mkv")
    assert [word for word in QUIET if word in printed] == []


def test_a_bmp_file_without_alpha_and_bits_is_said(run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.full((10, 13, 4), 30_001, np.uint16))
    printed = run(tmp_path / "in.png", tmp_path / "out.bmp", **UNCHANGED)
    assert "Transparent pixels are composited over black, because .bmp files hold no alpha" in printed
    assert "16 bits per channel become 8, because .bmp files hold no more" in printed


def test_the_profile_of_sixteen_bit_images_is_kept_in_png_files_and_elsewhere_said(run: Run, tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(np.full((8, 8), 30_001, np.uint16)).save(tmp_path / "in.tif", icc_profile=lab)
    assert "profile" not in run(tmp_path / "in.tif", tmp_path / "out.png")
    picture = read_picture(tmp_path / "out.png")
    assert picture.deep and picture.icc_profile == lab
    with Image.open(tmp_path / "out.png") as image:
        image.verify()
    assert "16-bit .tif files are written without one" in run(tmp_path / "in.tif", tmp_path / "out.tif")
    assert "The colour profile of the images is dropped" in run(tmp_path / "*.png", tmp_path / "out.mp4", fps=10)


@pytest.mark.parametrize(
    ("coding", "to_video", "to_images"),
    [
        ({"color_trc": 16, "color_primaries": 9}, r"stays HDR (PQ) in BT.2020, but", "are HDR (PQ) in BT.2020, so"),
        ({"color_trc": 18}, "stays HDR (HLG), but the network", "are HDR (HLG), so they look pale"),
        ({"color_primaries": 12}, None, "colours of {file} are Display P3, so they look pale"),
        ({"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}}, "{file} is interlaced", "{file} is interlaced"),
        ({"pix_fmt": "yuv422p"}, "half the width and height (4:2:0) instead of 4:2:2", None),
        ({"pix_fmt": "yuv444p"}, "half the width and height (4:2:0) instead of 4:4:4", None),
        ({"tags": {"title": "A walk"}}, "parts of {file} are not copied: tags (title);", None),
        ({"sample_aspect_ratio": 2}, None, "pixels of {file} are 2 times as wide as high"),
        ({"times": [0, 20, 80]}, None, "do not keep the varying frame times: for a video of them, give --fps 15, or"),
        ({}, None, "Images do not keep the frame rate: for a video of them, give --fps 30, or"),
    ],
)
def test_each_loss_of_a_video_is_said_once(
    run: Run, tmp_path: Path, coding: dict, to_video: str | None, to_images: str | None
) -> None:
    file = make_video(tmp_path / "in.mp4", 3, SIZE, audio=None, **coding)
    for output, sentence in ((tmp_path / "out.mkv", to_video), (tmp_path / "out", to_images)):
        printed = run(file, output)
        if sentence is None:
            assert not any(word in printed for word in QUIET)
        else:
            assert printed.count(sentence.format(file=file.name)) == 1, printed
    before, after = VideoReader(file), VideoReader(tmp_path / "out.mkv")
    kept = ("transfer", "primaries", "full_range")
    assert [getattr(before.colors, each) for each in kept] == [getattr(after.colors, each) for each in kept]
    assert after.pixel_aspect == before.pixel_aspect


def test_pixels_that_are_not_square_are_kept_or_said(run: Run, tmp_path: Path) -> None:
    video = transparent_video(tmp_path / "in.mov", PRORES, sample_aspect_ratio=2)
    assert "as wide as high" not in run(video, tmp_path / "out.mov")
    assert VideoReader(tmp_path / "out.mov").pixel_aspect == 2
    assert "does not record that pixels are 2 times as wide as high" in run(video, tmp_path / "out.mkv")


def test_transparent_hdr_videos_keep_their_colors_and_profile(run: Run, tmp_path: Path) -> None:
    hdr = {"color_trc": 16, "color_primaries": 9, "colorspace": 9}
    video = transparent_video(tmp_path / "in.mov", PRORES, **hdr)
    for name in ("out.mov", "out.mkv"):
        run(video, tmp_path / name)
        assert VideoReader(tmp_path / name).colors == VideoReader(video).colors
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "ap4h"


def test_a_quality_that_prores_does_not_use_is_said(run: Run, tmp_path: Path) -> None:
    video = transparent_video(tmp_path / "in.mov", PRORES)
    assert "--crf" not in run(video, tmp_path / "one.mov")
    assert "--crf 30 is not used" in run(video, tmp_path / "two.mov", crf=30)
