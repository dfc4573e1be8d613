"""Renders the views of a scene's photos into folders, one for each output."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import names_below_common_folder, write_whole
from difix3d_ns.images.photos import READING_ERRORS, over, photo_fault
from difix3d_ns.printing import say
from difix3d_ns.progress import progress_bars
from difix3d_ns.rendering.output_pictures import PictureOptions, picture, require_names, require_used_colormap
from difix3d_ns.rendering.runs import ENHANCED, Outputs, Run
from difix3d_ns.rendering.trajectory import ImageFormat, require_free, write_picture


@dataclass(frozen=True)
class DatasetOptions:
    """Which outputs of every view are rendered, and where they are written."""

    output_path: Path
    """The output folder; an output of a view becomes the file SPLIT/OUTPUT/NAME in it."""
    output_names: list[str]
    """Outputs of the model, or `rgba`. `gt-NAME` is what the dataset contains, such as the photo as `gt-rgb`.
    `raw-NAME` writes the values as .npy.gz; depths are then in the units of the capture."""
    splits: Sequence[str] = ("test",)
    """Some of train, val and test."""
    image_format: ImageFormat = "jpeg"
    """Format of the images."""
    jpeg_quality: int = 100
    """JPEG quality, at most 100."""
    pictures: PictureOptions = field(default_factory=PictureOptions)
    """How outputs that are not colours, such as depth, are coloured."""
    overwrite: bool = False
    """Whether existing files may be replaced, images also by those of another format."""

    @property
    def shows_photos(self) -> bool:
        """Whether an output is what the dataset contains."""
        return any(name.removeprefix("raw-").startswith("gt-") for name in self.output_names)


def require_free_folders(options: DatasetOptions) -> None:
    """Makes sure that the format fits the outputs and that no existing file is replaced without permission.

    Raises:
        Difix3DError: an output folder has contents, or an output does not fit the format.
    """
    if "rgba" in options.output_names and options.image_format == "jpeg":
        raise Difix3DError("rgba has transparent pixels, which JPEG cannot hold: add --image-format png.")
    for split in options.splits:
        for name in options.output_names:
            require_free(options.output_path / split / name, options.overwrite)


def render_dataset(run: Run, options: DatasetOptions) -> None:
    """Renders the view of every photo; enhances as many views together as fit into one batch of the network.

    Raises:
        Difix3DError: an output is unknown, a split has no photos, a photo that is needed cannot be read, or a file
            cannot be written.
        DifixError: there is no usable network, or it returns no usable image.
    """
    datasets = {split: _views_of(run, split, options) for split in options.splits}
    for split, dataset in datasets.items():
        started = time.perf_counter()
        _render_split(run, dataset, split, options)
        say(f"Rendered {len(dataset)} views in {time.perf_counter() - started:.1f} s: {options.output_path / split}")


def _views_of(run: Run, split: str, options: DatasetOptions) -> InputDataset:
    """The photos of a split. If they cannot be read and no output shows them, the scene's file gives their sizes."""
    dataset = run.dataset(split) if options.shows_photos else run.dataset_or_loaded(split)
    if len(dataset) == 0:
        raise Difix3DError(
            f"the scene {run.config.pipeline.datamanager.data} has no photos in its {split} split: choose another "
            "--split."
        )
    return dataset


def _render_split(run: Run, dataset: InputDataset, split: str, options: DatasetOptions) -> None:
    cameras = dataset.cameras.to(run.pipeline.device)
    names = names_below_common_folder(dataset.image_filenames)
    enhanced = any(name.removeprefix("raw-") == ENHANCED for name in options.output_names)
    with progress_bars() as progress:
        task = progress.add_task(f"[green]Rendering split {split}", total=len(dataset))
        start = 0
        while start < len(dataset):
            size = run.num_frames_at_once(cameras[start]) if enhanced else 1
            indices = range(start, min(start + size, len(dataset)))
            batch = [cameras[i : i + 1] for i in indices]
            for index, outputs in zip(indices, run.render(batch, enhanced), strict=True):
                if any(name.removeprefix("raw-") == "rgba" for name in options.output_names):
                    outputs["rgba"] = run.rgba(outputs)
                photo = _what_the_dataset_has(run, dataset, index) if options.shows_photos else {}
                _require_outputs(options.output_names, outputs, photo)
                shown = {name: outputs[name] for name in options.output_names if name in outputs}
                shown |= {f"gt-{name}": image for name, image in photo.items()}
                images = [name for name in options.output_names if not name.startswith("raw-")]
                require_used_colormap(options.pictures, shown, images)
                for name in options.output_names:
                    path = options.output_path / split / name / names[index]
                    _write(path, name, outputs, photo, dataset, options)
                progress.advance(task)
            start = indices.stop


def _what_the_dataset_has(run: Run, dataset: InputDataset, index: int) -> dict[str, Tensor]:
    """The photo of a view, over the renders' background, as `rgb`; and other images of it, such as a mask."""
    try:
        data: dict[str, Any] = dataset[index]
    except READING_ERRORS as error:
        fault = photo_fault(dataset.image_filenames[index], error)
        raise Difix3DError(f"{fault}: put it back, or leave out the outputs gt-.") from error
    data["rgb"] = over(data.pop("image"), run.background)
    return {name: value for name, value in data.items() if isinstance(value, Tensor) and value.dim() == 3}


def _require_outputs(names: list[str], outputs: Outputs, photo: dict[str, Tensor]) -> None:
    plain = [*outputs, *({"rgba", ENHANCED} - {*outputs}), *(f"gt-{key}" for key in photo)]
    require_names(names, [*plain, *(f"raw-{each}" for each in plain)])


def _write(
    path: Path,
    name: str,
    outputs: Outputs,
    photo: dict[str, Tensor],
    dataset: InputDataset,
    options: DatasetOptions,
) -> None:
    source, key = name.removeprefix("raw-"), name.removeprefix("raw-").removeprefix("gt-")
    values: Outputs = photo if source.startswith("gt-") else outputs
    if not name.startswith("raw-"):
        image = picture(values, key, options.pictures)
        write_picture(path, image, options.image_format, options.jpeg_quality, options.overwrite)
        return
    raw = values[key].detach().cpu()
    if "depth" in source and not source.startswith("gt-"):
        raw = raw / dataset._dataparser_outputs.dataparser_scale
    content = BytesIO()
    np.save(content, raw.numpy())
    file = path.with_name(f"{path.name}.npy.gz")
    require_free(file, options.overwrite)
    write_whole(file, gzip.compress(content.getvalue()))
