"""Finds the pixels of held-out photos whose surface a training photo shows, for some splits of a scene:

python tests/benchmarks/progressive_coverage.py --output-dir coverage/SCENE --splits SCENE/transforms_*.json

A splat that is trained on all photos of the scene decides by its depth what a photo shows. `progressive.py` calls this.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the other files can be imported from `benchmarks`

from benchmarks.progressive_sheets import contact_sheet, with_caption  # noqa: E402

from difix3d_ns.videos.flicker import FrameGeometry, pixels_in_previous_frame  # noqa: E402

Depths = dict[str, FrameGeometry]
"""Cameras and depths of photos, by absolute path."""

SMOOTHING = 9
"""Width and height in pixels of the box whose majority decides whether a pixel is covered: depth is noisy at edges."""
DARKENING = 0.25
"""What uncovered pixels are multiplied by in a contact sheet."""


@dataclass(frozen=True)
class Coverage:
    """Which pixels of the held-out photos of a split are covered."""

    files: tuple[str, ...]
    """Absolute paths of the held-out photos, in the order of nerfstudio's evaluation."""
    masks: tuple[Bool[Tensor, "height width 1"], ...]
    """The pixels of each that are covered and, if the photo has a mask, valid."""
    source: str
    """Identifies what it was computed from: the scene, the split and the training on all photos."""

    @property
    def shares(self) -> list[float]:
        """The covered share of each photo, in [0, 1]."""
        return [float(mask.float().mean()) for mask in self.masks]

    @property
    def digest(self) -> str:
        """Identifies the masks."""
        digest = hashlib.sha256()
        for mask in self.masks:
            digest.update(np.packbits(mask.numpy()).tobytes())
        return digest.hexdigest()[:16]

    def write(self, file: Path) -> None:
        """Writes it as a `.npz` file, completely or not at all."""
        masks = {f"mask_{index}": mask.numpy() for index, mask in enumerate(self.masks)}
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as opened:
            np.savez_compressed(opened, files=np.array(self.files), source=np.array(self.source), **masks)
        part.replace(file)


def read_coverage(file: Path) -> Coverage:
    """Reads what `Coverage.write` wrote."""
    with np.load(file) as arrays:
        files = tuple(map(str, arrays["files"]))
        masks = tuple(torch.from_numpy(arrays[f"mask_{index}"]) for index in range(len(files)))
        return Coverage(files, masks, str(arrays["source"]))


def coverage_file(output_dir: Path, split: Path) -> Path:
    """The file of a split's coverage in a scene's folder."""
    return output_dir / f"{split.stem}.npz"


def current_coverage(output_dir: Path, split: Path, steps: int) -> Coverage | None:
    """The coverage of a split from an earlier call; None if there is none for the scene and the split as they are."""
    file = coverage_file(output_dir, split)
    coverage = read_coverage(file) if file.exists() else None
    return coverage if coverage is not None and coverage.source == source_of_split(split, steps) else None


def whole_scene(split: Path) -> Path:
    """The transforms file with all photos of a split's scene: `transforms.json` beside it, or else the split itself."""
    beside = split.parent / "transforms.json"
    return beside if beside.exists() else split


def source_of_split(split: Path, steps: int) -> str:
    """Identifies the files that a split's coverage is computed from."""
    return hashlib.sha256(_source_of_scene(split, steps).encode() + split.read_bytes()).hexdigest()[:16]


def _source_of_scene(split: Path, steps: int) -> str:
    return hashlib.sha256(" ".join(training_options(steps)).encode() + whole_scene(split).read_bytes()).hexdigest()[:16]


def covered(photo: FrameGeometry, training_photos: Iterable[FrameGeometry]) -> Bool[Tensor, "height width 1"]:
    """The pixels of a photo whose surface at least one training photo shows, by `pixels_in_previous_frame`."""
    shown = torch.zeros(photo.depth.shape, dtype=torch.bool)
    for training_photo in training_photos:
        shown |= pixels_in_previous_frame(photo, training_photo)[1]
    return smoothed(shown)


def smoothed(mask: Bool[Tensor, "height width 1"]) -> Bool[Tensor, "height width 1"]:
    """A mask in which each pixel has the value of most pixels of the box around it."""
    batch = mask.permute(2, 0, 1)[None].float()
    share = avg_pool2d(batch, SMOOTHING, stride=1, padding=SMOOTHING // 2, count_include_pad=False)
    return share[0].permute(1, 2, 0) > 0.5


def training_options(steps: int) -> list[str]:
    """Options of `ns-train difix3d-mini` for a splat whose depth is right; its own have too few Gaussians for that.

    Args:
        steps: length of the training.
    """
    return [
        *("--max-num-iterations", str(steps), "--optimizers.means.scheduler.max-steps", str(steps)),
        *("--pipeline.model.max-gaussians", "40000", "--pipeline.model.stop-split-at", str(steps * 3 // 5)),
        # Given here, so that masks stay the same when the method gets another schedule.
        *("--pipeline.model.warmup-length", "50", "--pipeline.model.refine-every", "50"),
        *("--pipeline.model.resolution-schedule", "300", "--pipeline.model.sh-degree-interval", "200"),
        *("--pipeline.fix-novel-views", "False", "--machine.seed", "42"),
    ]


def train_depths(scene: Path, scratch: Path, steps: int) -> Depths:
    """Trains a splat on all photos of a scene and renders the depths of all photos.

    Args:
        scene: the transforms file; its split is ignored.
        scratch: a folder for the run.
        steps: length of the training.

    Raises:
        CalledProcessError: the training failed.
    """
    # Imported late, because they load nerfstudio.
    from difix3d_ns.curation.scenes import read_scene
    from difix3d_ns.rendering.geometry import frame_geometry
    from difix3d_ns.rendering.loading import RunOptions, load_run

    whole = read_scene(scene)
    data = scratch / "transforms.json"
    data.write_text(json.dumps(whole.split_transforms(whole.photos, ())))
    command = ["ns-train", "difix3d-mini", "--data", str(data), "--vis", "tensorboard", *training_options(steps)]
    folders = ["--output-dir", str(scratch), "--experiment-name", "all", "--timestamp", "run"]
    subprocess.run([*command, *folders], check=True)
    run = load_run(scratch / "all" / "difix3d-mini" / "run" / "config.yml", RunOptions())
    photos = run.dataset("train")
    depths: Depths = {}
    for index, file in enumerate(photos.image_filenames):
        camera = photos.cameras[index : index + 1].to(run.pipeline.device)
        with torch.no_grad():
            outputs = run.model.get_outputs_for_camera(camera)
        depths[str(file)] = frame_geometry(run.model, camera, outputs).to("cpu")
    return depths


def depths_of(split: Path, output_dir: Path, steps: int) -> Depths:
    """The depths of all photos of a split's scene, from an earlier call or from a training."""
    file, source = output_dir / "depths.pt", _source_of_scene(split, steps)
    saved = torch.load(file) if file.exists() else {}
    if saved.get("source") == source:
        return {name: FrameGeometry(**values) for name, values in saved["depths"].items()}
    scratch = (output_dir / f"training-{os.getpid()}").resolve()
    scratch.mkdir()
    depths = train_depths(whole_scene(split), scratch, steps)
    values = {
        name: {entry.name: getattr(depth, entry.name) for entry in fields(depth)} for name, depth in depths.items()
    }
    torch.save({"source": source, "depths": values}, scratch / "depths.pt")
    (scratch / "depths.pt").replace(file)
    shutil.rmtree(scratch)
    return depths


def split_coverage(split: Path, depths: Depths, source: str) -> Coverage:
    """The coverage of the held-out photos of a split.

    Args:
        split: the transforms file.
        depths: the depths of all its photos.
        source: see `Coverage`.

    Raises:
        SystemExit: the scene with all photos lacks some of the split.
    """
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from difix3d_ns.images.photos import PhotoDataset

    parser = NerfstudioDataParserConfig(data=split).setup()
    trained, held_out = (PhotoDataset(parser.get_dataparser_outputs(name)) for name in ("train", "test"))
    trained_files, files = ([str(file) for file in photos.image_filenames] for photos in (trained, held_out))
    if missing := [file for file in (*trained_files, *files) if file not in depths]:
        raise SystemExit(f"{whole_scene(split)} has no frame of {missing[0]}, which {split} lists: add it there.")
    masks = []
    for index, file in enumerate(files):
        mask, valid = covered(depths[file], [depths[trained] for trained in trained_files]), held_out.mask(index)
        masks.append(mask if valid is None else mask & valid)
    return Coverage(tuple(files), tuple(masks), source)


def draw_coverage(coverage: Coverage, title: str) -> Image.Image:
    """A contact sheet of the held-out photos, in which uncovered pixels are darkened."""
    cells = []
    for file, mask, share in zip(coverage.files, coverage.masks, coverage.shares, strict=True):
        with Image.open(file) as photo:
            colors = np.array(photo.convert("RGB"))
        shown = Image.fromarray(np.where(mask.numpy(), colors, colors * DARKENING).astype(np.uint8))
        cells.append(with_caption(shown, f"{Path(file).name}: {share:.0%} covered"))
    return contact_sheet(cells, title)


def main(splits: tuple[Path, ...], output_dir: Path, steps: int = 1500) -> None:
    """Writes the coverage of splits of one scene, unless it is there, and a contact sheet of each.

    Args:
        splits: transforms files in one folder.
        output_dir: folder for the depths, and for masks and contact sheet of each split.
        steps: length of the training on all photos.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    for split in splits:
        if current_coverage(output_dir, split, steps) is not None:
            continue
        coverage = split_coverage(split, depths_of(split, output_dir, steps), source_of_split(split, steps))
        title = f"{split.parent.name} {split.stem}: surfaces that no training photo shows are dark"
        draw_coverage(coverage, title).save(output_dir / f"{split.stem}.jpg", quality=90)
        coverage.write(coverage_file(output_dir, split))


if __name__ == "__main__":
    tyro.cli(main)
