"""Evaluations of folders and of synthetic videos: what is measured, written and refused."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.conftest import PaintFolder
from PIL import Image

from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation import report
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.report import evaluate
from difix3d_ns.evaluation.views import Frame, View
from difix3d_ns.videos.flicker import FrameGeometry

GRAY, LIGHTER, LIGHTEST = (100, 100, 100), (110, 110, 110), (151, 151, 151)


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.images.metrics.load_lpips", lambda backbone: None)


def metrics_of(folder: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def psnr(difference: int) -> float:
    return -20 * math.log10(difference / 255)


def test_each_view_and_the_mean_are_measured_against_the_photos(paint: PaintFolder, tmp_path: Path) -> None:
    photos = paint("photos", {"a": GRAY, "b": GRAY, "unrendered": GRAY})
    renders = paint("renders", {"a": LIGHTEST, "b": LIGHTER})
    enhanced = paint("enhanced", {"a": LIGHTER, "b": LIGHTER})
    evaluate(EvaluateConfig(tmp_path / "out", renders=renders, photos=photos, enhanced=enhanced))
    found = metrics_of(tmp_path / "out")
    assert [view["name"] for view in found["views"]] == ["a", "b"]
    assert found["views"][0]["raw"]["psnr"] == pytest.approx(psnr(51), abs=1e-3)
    assert found["views"][0]["enhanced"]["psnr"] == pytest.approx(psnr(10), abs=1e-3)
    assert found["mean"]["raw"]["psnr"] == pytest.approx((psnr(51) + psnr(10)) / 2, abs=1e-3)
    assert found["mean"]["enhanced"]["psnr"] == pytest.approx(psnr(10), abs=1e-3)
    assert found["flicker"] is None
    assert "1 photos" in found["facts"]["pictures"]
    for view in found["views"]:
        for kind, file in view["files"].items():
            assert Image.open(tmp_path / "out" / file).size == (64, 48), kind
    # The images can be evaluated again as folders.
    images = tmp_path / "out" / "images"
    evaluate(EvaluateConfig(tmp_path / "again", renders=images / "raw", photos=images / "photo"))
    assert metrics_of(tmp_path / "again")["mean"]["raw"] == found["mean"]["raw"]


def test_a_render_that_is_the_photo_itself_has_no_finite_psnr(paint: PaintFolder, tmp_path: Path) -> None:
    photos, renders = paint("photos", {"a": GRAY, "b": GRAY}), paint("renders", {"a": GRAY, "b": LIGHTER})
    evaluate(EvaluateConfig(tmp_path / "out", renders=renders, photos=photos))
    found = metrics_of(tmp_path / "out")
    assert found["views"][0]["raw"] == {"psnr": None, "ssim": pytest.approx(1.0)}
    assert found["mean"]["raw"]["psnr"] is None
    assert "\N{INFINITY}" in (tmp_path / "out" / "index.html").read_text()


def test_browsers_show_the_images_as_they_were_measured(paint: PaintFolder, tmp_path: Path) -> None:
    photos, renders = paint("photos", {"a": GRAY}), paint("renders", {"a": GRAY}, suffix=".tif")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # EXIF orientation: viewers turn the image by 90 degrees
    (photos / "a.png").unlink()
    turned.save(photos / "a.png", exif=exif)
    evaluate(EvaluateConfig(tmp_path / "out", renders=renders, photos=photos))
    (view,) = metrics_of(tmp_path / "out")["views"]
    assert view["files"] == {"raw": "images/raw/a.png", "photo": "images/photo/a.png"}
    with Image.open(tmp_path / "out" / "images" / "photo" / "a.png") as shown:
        assert np.array_equal(np.asarray(shown), pixels) and 0x0112 not in shown.getexif()


def test_flicker_of_raw_and_enhanced_frames_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class MovingSource:
        title, facts, num_views, num_frames = "made up", {"network": "none"}, 1, 3

        def views(self):
            yield View(
                "a", {"raw": torch.rand(40, 40, 3), "enhanced": torch.rand(40, 40, 3), "photo": torch.rand(40, 40, 3)}
            )

        def frames(self):
            K = torch.tensor([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]])
            still = FrameGeometry(torch.eye(4)[:3], K, torch.ones(40, 40, 1), torch.ones(40, 40, 1))
            for index in range(3):
                images = {"raw": torch.full((40, 40, 3), 0.1 * index), "enhanced": torch.full((40, 40, 3), 0.3 * index)}
                yield Frame(images, still)

    monkeypatch.setattr(report, "_source", lambda config: MovingSource())
    evaluate(EvaluateConfig(tmp_path / "out", load_config=tmp_path / "config.yml"))
    video = metrics_of(tmp_path / "out")["flicker"]
    assert video["raw"]["mean"] == pytest.approx(0.1, abs=1e-4)
    assert video["enhanced"]["mean"] == pytest.approx(0.3, abs=1e-4)
    assert video["ratio"] == pytest.approx(3.0, abs=0.01)
    assert [len(files) for files in video["files"].values()] == [3, 3]
    assert all((tmp_path / "out" / file).exists() for file in video["files"]["enhanced"])


class MaskedSource:
    """Views of random pixels, each with a mask that is valid in its first columns."""

    title, facts, num_frames = "made up", {"network": "none"}, 0

    def __init__(self, **valid_columns: int) -> None:
        self.valid_columns, self.num_views = valid_columns, len(valid_columns)

    def views(self):
        for name, number in self.valid_columns.items():
            images = {kind: torch.rand(40, 40, 3) for kind in ("raw", "enhanced", "photo")}
            yield View(name, images, mask=(torch.arange(40) < number).expand(40, 40)[..., None])

    def frames(self):
        yield from ()


def test_a_photo_without_a_valid_pixel_is_left_out_of_the_means(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "_source", lambda config: MaskedSource(a=40, hidden=0, b=20))
    evaluate(EvaluateConfig(tmp_path / "out", load_config=tmp_path / "config.yml"))
    found = metrics_of(tmp_path / "out")
    assert [view["name"] for view in found["views"]] == ["a", "b"]
    for kind in ("raw", "enhanced"):
        for name in ("psnr", "ssim"):
            values = [view[kind][name] for view in found["views"]]
            assert found["mean"][kind][name] == pytest.approx(sum(values) / 2)
    (note,) = [each for each in found["notes"] if "masks" in each]
    assert note.endswith("too few pixels to measure: hidden.") and note in (tmp_path / "out" / "index.html").read_text()
    assert not list((tmp_path / "out").rglob("hidden*"))


def test_a_scene_without_a_valid_pixel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "_source", lambda config: MaskedSource(a=0, b=0))
    with pytest.raises(Difix3DError, match="no held-out photo has enough valid pixels to measure"):
        evaluate(EvaluateConfig(tmp_path / "out", load_config=tmp_path / "config.yml"))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_with_contents_is_refused_and_unchanged(paint: PaintFolder, tmp_path: Path) -> None:
    photos = paint("photos", {"a": GRAY})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    with pytest.raises(Difix3DError, match="not empty"):
        evaluate(EvaluateConfig(tmp_path / "out", renders=photos, photos=photos))
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_output_folder_that_cannot_be_read_ends_in_one_sentence(
    paint: PaintFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = paint("photos", {"a": GRAY}), tmp_path / "out"
    out.mkdir()
    list_folder = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder == out:
            raise PermissionError(errno.EACCES, "Permission denied")
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(Difix3DError, match=r"out cannot be used \(Permission denied\): give another --output-dir"):
        evaluate(EvaluateConfig(out, renders=photos, photos=photos))


@pytest.mark.parametrize("existed", [True, False])
def test_an_evaluation_that_fails_leaves_nothing_behind(paint: PaintFolder, tmp_path: Path, existed: bool) -> None:
    photos, renders = (paint(folder, dict.fromkeys("abc", GRAY)) for folder in ("photos", "renders"))
    # The header is intact, so the fault shows only when the pixels are read, after other views were written.
    whole = (renders / "c.png").read_bytes()
    (renders / "c.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "parent" / "out"
    if existed:
        out.mkdir(parents=True)
    with pytest.raises(Difix3DError, match=r"c\.png cannot be read"):
        evaluate(EvaluateConfig(out, renders=renders, photos=photos))
    assert list(out.iterdir()) == [] if existed else not out.parent.exists()


def test_a_parent_that_another_evaluation_uses_by_now_stays(
    monkeypatch: pytest.MonkeyPatch, paint: PaintFolder, tmp_path: Path
) -> None:
    photos = paint("photos", {"a": GRAY})

    def fail(*_: object) -> None:
        (tmp_path / "parent" / "other").mkdir()
        raise Difix3DError("its own fault")

    monkeypatch.setattr(report, "_measured", fail)
    with pytest.raises(Difix3DError, match="its own fault"):
        evaluate(EvaluateConfig(tmp_path / "parent" / "out", renders=photos, photos=photos))
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["other"]


def test_the_folder_of_an_evaluation_in_progress_is_not_empty(
    monkeypatch: pytest.MonkeyPatch, paint: PaintFolder, tmp_path: Path
) -> None:
    photos, out = paint("photos", {"a": GRAY}), tmp_path / "out"
    measured = report._measured

    def second_command(*arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(report, "_measured", measured)
        with pytest.raises(Difix3DError, match="not empty"):
            evaluate(EvaluateConfig(out, renders=photos, photos=photos))
        return measured(*arguments)

    monkeypatch.setattr(report, "_measured", second_command)
    evaluate(EvaluateConfig(out, renders=photos, photos=photos))
    assert (out / "index.html").exists() and metrics_of(out)["views"]


@pytest.mark.parametrize(
    ("suffix", "place", "writes", "file"),
    [
        (".png", shutil, "copyfile", "images/raw/a.png"),
        (".tif", Image.Image, "save", "images/raw/a.png"),
        (".png", os, "replace", "metrics.json"),
    ],
)
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing_behind(
    paint: PaintFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    place: object,
    writes: str,
    file: str,
) -> None:
    photos, renders = (paint(folder, {"a": GRAY}, suffix=suffix) for folder in ("photos", "renders"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, writes, fail)
    with pytest.raises(Difix3DError, match=f"out/{file} cannot be written, as no space is left on its disk"):
        evaluate(EvaluateConfig(tmp_path / "out", renders=renders, photos=photos))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing to evaluate"),
        ({"renders": "r"}, "add --photos"),
        ({"photos": "p"}, "add --renders"),
        ({"renders": "r", "photos": "p", "load_config": "c"}, "both a run and folders"),
        ({"renders": "r", "photos": "p", "model": "embedded"}, "need a run"),
        ({"renders": "r", "photos": "p", "data": "d"}, "need a run"),
        ({"renders": "r", "photos": "p", "num_frames": 30}, "need a run"),
        ({"renders": "r", "photos": "p", "frame_size": 480}, "need a run"),
        ({"load_config": "c", "num_frames": 1}, "--num-frames"),
        ({"load_config": "c", "num_frames": 0, "frame_size": 480}, "--num-frames 0 turns off"),
        ({"load_config": "c", "num_frames": 0, "camera_path": "p"}, "--num-frames 0 turns off"),
        ({"load_config": "c", "frame_size": 8}, "--frame-size"),
        ({"load_config": "c", "strength": 1.5}, "--strength"),
        ({"renders": "nowhere", "photos": "nowhere"}, "nowhere does not exist"),
        ({"load_config": "nowhere/config.yml"}, "nowhere/config.yml cannot be read"),
    ],
)
def test_invalid_options_end_in_one_sentence(tmp_path: Path, options: dict, sentence: str) -> None:
    paths = {
        name: Path(value) if isinstance(value, str) and name != "model" else value for name, value in options.items()
    }
    with pytest.raises(Difix3DError, match=sentence):
        evaluate(EvaluateConfig(tmp_path / "out", **paths))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_the_config_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("[1, 2]")
    with pytest.raises(Difix3DError, match="is not the config of a nerfstudio run"):
        evaluate(EvaluateConfig(tmp_path / "out", load_config=tmp_path / "config.yml"))
