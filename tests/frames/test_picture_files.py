"""Images keep bits, gray, alpha, orientation and colour profile; colours of transparent pixels stay hidden."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from difix3d_ns.errors import Difix3DError
from difix3d_ns.frames.picture_files import FileKind, Picture, encode_picture, read_kind, read_picture

RANDOM = np.random.default_rng(0)


def save_deep(file: Path, channels: int) -> np.ndarray:
    """Writes random 16-bit values in OpenCV's order of channels; returns them in RGB order."""
    values = RANDOM.integers(0, 65536, (6, 9, channels), dtype=np.uint16)
    cv2.imwrite(str(file), values[..., 0] if channels == 1 else values)
    return values[..., [0] if channels == 1 else [2, 1, 0, 3][:channels]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_read_and_written_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    values = save_deep(tmp_path / f"in{suffix}", channels)
    picture = read_picture(tmp_path / f"in{suffix}")
    assert picture.deep and picture.gray == (channels == 1)
    assert (picture.rgb.numpy() * 65535).round().astype(int).tolist() == (
        np.broadcast_to(values[..., :3], (6, 9, 3)).tolist()
    )
    (tmp_path / f"out{suffix}").write_bytes(encode_picture(picture, suffix))
    written = cv2.imread(str(tmp_path / f"out{suffix}"), cv2.IMREAD_UNCHANGED)
    again = cv2.imread(str(tmp_path / f"in{suffix}"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16 and np.array_equal(written, again)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".bmp"])
def test_eight_bit_images_keep_their_mode_if_the_format_has_it(tmp_path: Path, mode: str, suffix: str) -> None:
    channels = len(mode)
    values = np.zeros((16, 16, channels), np.uint8) + np.array([200, 100, 50, 128], np.uint8)[:channels]
    if mode == "LA":
        values[..., 1] = 128
    Image.fromarray(values.squeeze(), mode).save(tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    with Image.open(BytesIO(encode_picture(picture, suffix))) as written:
        no_alpha = suffix in (".jpg", ".bmp")
        if suffix != ".webp":  # WebP has no gray
            assert written.mode == (mode.replace("A", "") if no_alpha else mode)
        rgba = np.asarray(written.convert("RGBA")).astype(int)
    expected = np.asarray(Image.fromarray(values.squeeze(), mode).convert("RGBA")).astype(int)
    if "A" in mode and no_alpha:
        expected = np.concatenate([expected[..., :3] * 128 // 255, np.full((16, 16, 1), 255)], -1)
    assert abs(rgba - expected).max() <= 4


def test_transparent_pixels_are_composited_over_black_and_change_by_their_opacity() -> None:
    rgb = torch.full((1, 3, 3), 0.6)
    picture = Picture(rgb, np.array([[0, 51, 255]], np.uint8))
    seen = picture.over_black()
    assert seen[0, :, 0].tolist() == pytest.approx([0.0, 0.12, 0.6])
    cleaned = picture.cleaned(seen + 0.1)
    assert cleaned.rgb[0, :, 0].tolist() == pytest.approx([0.6, 0.62, 0.7])
    assert cleaned.alpha is picture.alpha


def test_alpha_is_written_exactly(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    for suffix in (".png", ".webp", ".tif"):
        with Image.open(BytesIO(encode_picture(picture.cleaned(torch.rand(8, 8, 3)), suffix))) as written:
            assert np.array_equal(np.asarray(written)[..., 3], values[..., 3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, deep: bool) -> None:
    file = tmp_path / "in.png"
    values = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(file, exif=exif)
    upright = read_picture(file)
    if deep:  # the same numbers in 16 bits, with the EXIF of the first
        eight = file.read_bytes()
        start = eight.index(b"eXIf") - 4
        chunk = eight[start : start + 12 + int.from_bytes(eight[start : start + 4], "big")]
        _, content = cv2.imencode(".png", values[..., ::-1].astype(np.uint16) * 257)
        sixteen = content.tobytes()
        file.write_bytes(sixteen[:33] + chunk + sixteen[33:])
        picture = read_picture(file)
        assert picture.deep
        assert torch.allclose(picture.rgb, upright.rgb, atol=1e-6)
    assert (kind := read_kind(file)) is not None
    assert kind.size == tuple(upright.rgb.shape[:2]) == ((6, 4) if orientation > 4 else (4, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_files_are_turned_upright(tmp_path: Path, orientation: int, kind: type) -> None:
    file = tmp_path / "in.tif"
    values = RANDOM.integers(0, 256, (4, 6)).astype(kind)
    Image.fromarray(values).save(tmp_path / "plain.png")
    Image.fromarray(values).save(file, tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "upright.png", exif=exif)
    expected = read_picture(tmp_path / "upright.png").rgb * 255 / np.iinfo(kind).max
    picture = read_picture(file)
    assert picture.deep == (kind is np.uint16)
    assert torch.allclose(picture.rgb, expected, atol=1e-6)
    assert (found := read_kind(file)) is not None and found.size == tuple(expected.shape[:2])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_kind_of_a_sixteen_bit_file_is_known(tmp_path: Path, suffix: str, channels: int) -> None:
    save_deep(tmp_path / f"in{suffix}", channels)
    kind = read_kind(tmp_path / f"in{suffix}")
    assert kind is not None and (kind.size, kind.bits, kind.transparent) == ((6, 9), 16, channels == 4)


def test_an_eight_bit_image_whose_rows_have_2160_bytes_is_not_taken_for_sixteen_bits(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (6, 720, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "wide.bmp")
    assert read_kind(tmp_path / "wide.bmp") == FileKind((6, 720), 8, False)
    picture = read_picture(tmp_path / "wide.bmp")
    assert not picture.deep and np.array_equal((picture.rgb.numpy() * 255).round(), values)
    cv2.imwrite(str(tmp_path / "wide.png"), values.astype(np.uint16) * 257)
    assert read_kind(tmp_path / "wide.png") == FileKind((6, 720), 16, False)
    assert read_picture(tmp_path / "wide.png").deep


@pytest.mark.parametrize(("mode", "transparent"), [("RGB", False), ("RGBA", True), ("L", False), ("LA", True)])
def test_the_kind_of_an_eight_bit_file_is_known(tmp_path: Path, mode: str, transparent: bool) -> None:
    for suffix in (".png", ".webp", ".tif"):
        Image.new(mode, (9, 6), (7,) * len(mode) if len(mode) > 1 else 7).save(tmp_path / f"in{suffix}")
        kind = read_kind(tmp_path / f"in{suffix}")
        assert kind == FileKind((6, 9), 8, transparent)
    palette = Image.new("P", (9, 6))
    palette.save(tmp_path / "palette.png", transparency=0)
    assert read_kind(tmp_path / "palette.png") == FileKind((6, 9), 8, True)


def test_the_rounded_image_is_what_the_file_holds(tmp_path: Path) -> None:
    for deep in (False, True):
        alpha = RANDOM.integers(0, 255, (8, 8)).astype(np.uint16 if deep else np.uint8)
        picture = Picture(torch.rand(8, 8, 3), alpha, deep).cleaned(torch.rand(8, 8, 3))
        (tmp_path / "out.png").write_bytes(encode_picture(picture, ".png"))
        assert torch.equal(read_picture(tmp_path / "out.png").over_black(), picture.rounded().over_black())


def test_the_colour_profile_is_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "in.jpg", icc_profile=profile)
    picture = read_picture(tmp_path / "in.jpg")
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        with Image.open(BytesIO(encode_picture(picture, suffix))) as written:
            assert written.info["icc_profile"] == profile


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(Difix3DError, match=r"empty\.png cannot be read \(the file is empty\)\.$"):
        read_picture(tmp_path / "empty.png")
    for name in ("cut.png", "text.png", "float.tif"):
        with pytest.raises(Difix3DError, match=rf"image .*{name} cannot be read \(.+\)\.$"):
            read_picture(tmp_path / name)
    with pytest.raises(Difix3DError, match="is missing"):
        read_picture(tmp_path / "nowhere.png")
    assert read_kind(tmp_path / "text.png") is None
