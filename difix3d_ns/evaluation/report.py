"""Runs an evaluation: measures views and flicker, and writes the images, `metrics.json` and the page."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE
from PIL import ExifTags, Image
from rich.table import Table

from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.folders import FolderSource
from difix3d_ns.evaluation.page import METRICS, page_of
from difix3d_ns.evaluation.picture_folders import write_picture
from difix3d_ns.evaluation.views import ENHANCED, KINDS, PHOTO, RAW, Source, View
from difix3d_ns.files import telling_errors, write_whole
from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.printing import say
from difix3d_ns.progress import progress_bars
from difix3d_ns.videos.flicker import FlickerMeter

PAGE_FILE = "index.html"
METRICS_FILE = "metrics.json"
IMAGE_FOLDER = "images"
FRAME_FOLDER = "frames"
SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP")


def evaluate(config: EvaluateConfig) -> None:
    """Evaluates a run or folders, and writes the output folder.

    Raises:
        Difix3DError: an option is invalid, the input cannot be read, or the output folder is not empty or cannot be
            written.
    """
    config.check()
    with new_folder(config.output_dir) as folder:
        report = _measured(_source(config), folder)
        write_whole(folder / METRICS_FILE, json.dumps(report, indent=1, allow_nan=False).encode())
        write_whole(folder / PAGE_FILE, page_of(report).encode())
    _print_means(report)
    say(f"Open {config.output_dir / PAGE_FILE} in a browser.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a new or empty folder; after an error, restores it to what it was, and removes the parents that it made.

    The subfolder of the images claims it: of two commands with one output folder, only one can make it.

    Raises:
        Difix3DError: the folder has contents, is a file, or cannot be read or made.
    """
    claim = folder / IMAGE_FOLDER
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError
        folder.mkdir(parents=True, exist_ok=True)
        claim.mkdir()
    except FileExistsError as error:
        if folder.is_dir():
            raise Difix3DError(
                f"the output folder {folder} is not empty: give a new one, because nothing is overwritten."
            ) from error
        raise Difix3DError(f"the output folder {folder} is a file: give another --output-dir.") from error
    except OSError as error:
        raise Difix3DError(
            f"the output folder {folder} cannot be used ({error.strerror}): give another --output-dir."
        ) from error
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # the folder may be on a disk that fails, and another command may use a parent by now
            for path in [each for each in folder.iterdir() if each != claim] + [claim]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in made:
                path.rmdir()
        raise


def _source(config: EvaluateConfig) -> Source:
    if config.load_config is None:
        assert config.renders is not None and config.photos is not None
        return FolderSource(config.renders, config.photos, config.enhanced)
    # Imported here because it loads nerfstudio's models, which folders do not need.
    from difix3d_ns.evaluation.run import RunSource

    return RunSource(config)


def _measured(source: Source, folder: Path) -> dict[str, Any]:
    """Measures all views and the flicker, and writes their images; returns the content of `metrics.json`."""
    measure = ImageMetrics()
    views: list[dict[str, Any]] = []
    left_out: list[str] = []
    with progress_bars() as progress:
        task = progress.add_task("[green]Measuring views", total=source.num_views)
        for view in source.views():
            measured_view = _measured_view(view, measure, folder)
            if measured_view is None:
                left_out.append(view.name)
            else:
                views.append(measured_view)
            progress.advance(task)
        if not views:
            raise Difix3DError("no held-out photo has enough valid pixels to measure: look at the masks of the scene.")
        task = progress.add_task("[green]Measuring flicker", total=source.num_frames, visible=source.num_frames > 0)
        video = _measured_video(source, folder, lambda: progress.advance(task))
    measured = [kind for kind in (RAW, ENHANCED) if kind in views[0]]
    report: dict[str, Any] = {
        "title": source.title,
        "facts": dict(source.facts),
        "notes": [],
        "mean": {kind: _means([view[kind] for view in views]) for kind in measured},
        "flicker": video,
        "views": views,
    }
    if "lpips" not in views[0][RAW]:
        report["notes"].append("LPIPS is left out, because its network is not cached and could not be downloaded.")
    if left_out:
        report["notes"].append(f"Left out, because their masks leave too few pixels to measure: {', '.join(left_out)}.")
    if video is None and source.num_frames > 0:
        report["notes"].append("Flicker could not be measured, because neighbouring frames show no common surface.")
    return report


def _measured_view(view: View, measure: ImageMetrics, folder: Path) -> dict[str, Any] | None:
    """Measures a view and keeps its images; None if its mask leaves too few pixels to measure."""
    photo, renders = view.images[PHOTO], {kind: view.images[kind] for kind in (RAW, ENHANCED) if kind in view.images}
    measured = {kind: measure(image, photo, view.mask) for kind, image in renders.items()}
    if any(math.isnan(value) for values in measured.values() for value in values.values()):
        return None
    height, width = view.images[RAW].shape[:2]
    entry: dict[str, Any] = {"name": view.name, "width": width, "height": height, "files": {}}
    for kind in KINDS:
        if kind in view.images:
            file = _keep_picture(view, kind, folder)
            entry["files"][kind] = file.relative_to(folder).as_posix()
    for kind, values in measured.items():
        # The PSNR of the photo itself is infinite, which JSON cannot hold.
        entry[kind] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return entry


def _keep_picture(view: View, kind: str, folder: Path) -> Path:
    """Writes an image so that browsers show it as it was measured: a copy of its file if possible, else a PNG."""
    source = view.files.get(kind)
    path = folder / IMAGE_FOLDER / kind / view.name
    if source is not None and _looks_as_measured(source):
        file = path.with_name(path.name + source.suffix)
        with telling_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, file)
        return file
    file = path.with_name(path.name + ".png")
    write_picture(view.images[kind], file)
    return file


def _looks_as_measured(file: Path) -> bool:
    """Whether browsers show the file's pixels unchanged: a known format, opaque, and not turned by EXIF."""
    with Image.open(file) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return picture.format in SHOWN_BY_BROWSERS and picture.mode in ("RGB", "L") and not turned


def _measured_video(source: Source, folder: Path, on_frame: Callable[[], None]) -> dict[str, Any] | None:
    """Measures the flicker of each kind and writes the frames; returns None if no frames can be compared."""
    meters: dict[str, FlickerMeter] = {}
    files: dict[str, list[str]] = {}
    size = (0, 0)
    for index, frame in enumerate(source.frames()):
        for kind, image in frame.images.items():
            meters.setdefault(kind, FlickerMeter()).add(image, frame.geometry)
            file = Path(FRAME_FOLDER) / kind / f"{index:04d}.png"
            write_picture(image, folder / file)
            files.setdefault(kind, []).append(file.as_posix())
            size = image.shape[:2]
        on_frame()
    results = {kind: meter.result() for kind, meter in meters.items()}
    if any(result is None for result in results.values()) or not results:
        return None
    figures = {
        kind: {"mean": result.mean, "covered": result.covered, "pairs": list(result.pairs)}
        for kind, result in results.items()
        if result is not None
    }
    raw, enhanced = figures[RAW]["mean"], figures.get(ENHANCED, {}).get("mean")
    ratio = enhanced / raw if enhanced is not None and raw > 0 else None
    num_frames = len(files[RAW])
    return {"num_frames": num_frames, "height": size[0], "width": size[1], "ratio": ratio, **figures, "files": files}


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each metric; None if one of its values is infinite."""
    means: dict[str, float | None] = {}
    for name in values[0]:
        known = [value for view in values if (value := view[name]) is not None]
        means[name] = sum(known) / len(known) if len(known) == len(values) else None
    return means


def _print_means(report: Mapping[str, Any]) -> None:
    table = Table(title=f"Mean of {len(report['views'])} views", title_justify="left")
    shown = [metric for metric in METRICS if metric["name"] in report["mean"][RAW]]
    video = report["flicker"]
    table.add_column()
    for name in [metric["label"] for metric in shown] + ["Flicker (%)"] * (video is not None):
        table.add_column(name, justify="right")
    for kind, values in report["mean"].items():
        figures = [(values[metric["name"]], metric["digits"]) for metric in shown]
        if video is not None:
            figures.append((100 * video[kind]["mean"], 2))
        table.add_row(kind, *("\N{INFINITY}" if value is None else f"{value:.{digits}f}" for value, digits in figures))
    CONSOLE.print(table)
