"""Measures renders of held-out photos over the pixels that training photos show, and by a perceptual distance:

python tests/benchmarks/progressive_measure.py --pictures RENDERS --coverage coverage/SCENE/transforms_SPLIT.npz

The pictures are those of `ns-eval --render-output-path RENDERS`. With `--vgg-weights`, the VGG perceptual distance of
raw and enhanced renders is measured as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the other files can be imported from `benchmarks`

from benchmarks.progressive_coverage import Coverage, read_coverage  # noqa: E402
from benchmarks.progressive_sheets import contact_sheet, with_caption  # noqa: E402

from difix3d_ns.difix.training.vgg import VggFeatures, feature_distance  # noqa: E402
from difix3d_ns.images.metrics import ImageMetrics  # noqa: E402

MIN_SHARE = 0.05
"""Photos of which less is covered do not count: the metrics of few pixels are noise."""
METRICS = ("psnr", "ssim")


def pictures_of(folder: Path, coverage: Coverage) -> list[Path]:
    """The pictures that `ns-eval` wrote, in the order of the held-out photos.

    Raises:
        SystemExit: their number is not that of the held-out photos.
    """
    files = sorted(folder.glob("eval_img_*.png"))
    if len(files) != len(coverage.files):
        raise SystemExit(f"{folder} has {len(files)} pictures of {len(coverage.files)} held-out photos.")
    return files


def covered_metrics(folder: Path, coverage: Coverage) -> dict[str, float]:
    """PSNR (dB) and SSIM of raw renders over the covered pixels, as means over the photos.

    Args:
        folder: the pictures of `ns-eval`, each with photo and render side by side.
        coverage: the covered pixels of the held-out photos.

    Returns:
        `psnr_covered`, `ssim_covered` and `share_covered`, the mean of the covered shares; only the last if too little
        of every photo is covered.
    """
    of_photos = [
        _metrics_of_picture(file, mask)
        for file, mask in zip(pictures_of(folder, coverage), coverage.masks, strict=True)
    ]
    counted = [metrics for metrics in of_photos if metrics is not None]
    means = {f"{name}_covered": statistics.fmean(metrics[name] for metrics in counted) for name in METRICS if counted}
    return {**means, "share_covered": statistics.fmean(coverage.shares)}


@functools.cache
def _image_metrics() -> ImageMetrics:
    """One for all pictures, because it looks for LPIPS at the first use."""
    return ImageMetrics()


class PerceptualDistance:
    """The VGG perceptual distance of renders to photos. It is lower, the more alike they look.

    Args:
        weights: VGG-16, see `ns-difix train --help`.

    Raises:
        DifixError: they cannot be read.

    Attributes:
        digest: identifies the weights.
    """

    def __init__(self, weights: Path) -> None:
        self._features = VggFeatures.from_file(weights)
        self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]

    @torch.no_grad()
    def of_renders(self, folder: Path, coverage: Coverage) -> dict[str, float]:
        """`vgg` of raw renders and, if there are any, `vgg_enhanced` of enhanced ones, as means over the photos.

        Args:
            folder: the pictures of `ns-eval`.
            coverage: names the held-out photos, and has their sizes.
        """
        found: dict[str, list[float]] = {"vgg": [], "vgg_enhanced": []}
        for file, mask in zip(pictures_of(folder, coverage), coverage.masks, strict=True):
            photo, *renders = (
                self._features(image.permute(2, 0, 1)[None]) for image in images_of(file, mask.shape[1] / mask.shape[0])
            )
            for distances, render in zip(found.values(), renders, strict=False):
                layers = zip(render, photo, strict=True)
                distances.append(math.fsum(float(feature_distance(*features)) for features in layers))
        return {name: statistics.fmean(distances) for name, distances in found.items() if distances}


def _metrics_of_picture(file: Path, mask: Bool[Tensor, "height width 1"]) -> dict[str, float] | None:
    """Metrics of the render over the mask; None if it is too small."""
    if float(mask.float().mean()) < MIN_SHARE:
        return None
    photo, render, *_ = images_of(file, mask.shape[1] / mask.shape[0])
    if mask.shape[:2] != photo.shape[:2]:  # the photos were trained on at a lower resolution
        batch = mask.permute(2, 0, 1)[None].float()
        mask = interpolate(batch, photo.shape[:2])[0].permute(1, 2, 0) > 0
    found = _image_metrics()(render, photo, mask)
    return {name: found[name] for name in METRICS}


def images_of(file: Path, aspect: float) -> tuple[Float[Tensor, "height width 3"], ...]:
    """The photo, the raw render and, if there is one, the enhanced render of a picture by `ns-eval`, in [0, 1].

    Args:
        file: the picture.
        aspect: width of the photo divided by its height.
    """
    with Image.open(file) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255
    height, width = pixels.shape[:2]
    return pixels.split(width // round(width / height / aspect), dim=1)


def draw_renders(folder: Path, coverage: Coverage, title: str) -> Image.Image:
    """A contact sheet of photos, renders and, if there are any, enhanced renders, from left to right."""
    cells = []
    for file, photo in zip(pictures_of(folder, coverage), coverage.files, strict=True):
        with Image.open(file) as picture:
            cells.append(with_caption(picture.convert("RGB"), Path(photo).name))
    return contact_sheet(cells, title)


def main(pictures: Path, coverage: Path, vgg_weights: Path | None = None) -> None:
    """Prints the metrics over covered pixels and, with VGG-16, the perceptual distance.

    Args:
        pictures: folder that was given to `ns-eval --render-output-path`.
        coverage: a `.npz` file of `progressive_coverage.py`.
        vgg_weights: VGG-16, see `ns-difix train --help`.
    """
    photos = read_coverage(coverage)
    distances = {} if vgg_weights is None else PerceptualDistance(vgg_weights).of_renders(pictures, photos)
    print(json.dumps({**covered_metrics(pictures, photos), **distances}, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
