"""Measures how much a network improves renders, compared to leaving them unchanged."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pytorch_msssim import ssim
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.pairs import Pair, PairReader
from difix3d_ns.difix.training.vgg import PerceptualLoss


@dataclass
class Evaluation:
    """The results of a network on pairs."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    """For each pair: `psnr_` (dB), `ssim_` and, with VGG-16, `lpips_` or `vgg_perceptual_distance_`, each for `nothing`
    (the render itself), `without_reference` and, if the pair has a reference, `with_reference`."""
    panels: dict[str, UInt8[np.ndarray, "height width 3"]] = field(default_factory=dict)
    """By pair name: render, results without and with reference, and photo, side by side."""


@torch.no_grad()
def evaluate(
    pipeline: DifixPipeline,
    pairs: Sequence[Pair],
    reader: PairReader | None = None,
    perceptual: PerceptualLoss | None = None,
    num_panels: int = 0,
) -> Evaluation:
    """Runs a network on whole images.

    Args:
        pipeline: the network.
        pairs: pairs to measure on.
        reader: reads the images; pairs that it skips are left out.
        perceptual: measures the perceptual distance, if given.
        num_panels: number of pairs, from the first, whose images are kept as panels.

    Raises:
        DifixError: an image cannot be read, or the network returns NaN or black images.
    """
    reader, evaluation = reader or PairReader(), Evaluation()
    for pair in pairs:
        if (views := reader.read(pair)) is None:
            continue
        render, photo = views[:1, :3], views[1:2, :3]
        results = {"nothing": render, "without_reference": pipeline(render, output_type="pt").images.cpu().float()}
        if len(views) == 3:
            results["with_reference"] = pipeline(render, views[2:], output_type="pt").images.cpu().float()
        metrics = {}
        for name, result in results.items():
            metrics[f"psnr_{name}"], metrics[f"ssim_{name}"] = psnr_and_ssim(result, photo)
            if perceptual is not None:
                metrics[f"{perceptual.metric_name}_{name}"] = perceptual.measure(result, photo)
        evaluation.metrics.append(metrics)
        if len(evaluation.panels) < num_panels:
            side_by_side = torch.cat([*results.values(), photo], dim=-1)[0].permute(1, 2, 0)
            evaluation.panels[pair.name] = (side_by_side * 255).round().byte().numpy()
    return evaluation


def mean_metrics(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the pairs that have it; empty without pairs. Independent of the pairs' order."""
    values: dict[str, list[float]] = defaultdict(list)
    for of_pair in metrics:
        for name, value in of_pair.items():
            values[name].append(value)
    return {name: math.fsum(each) / len(each) for name, each in sorted(values.items())}


def psnr_and_ssim(
    image: Float[Tensor, "1 3 height width"], photo: Float[Tensor, "1 3 height width"]
) -> tuple[float, float]:
    """PSNR in dB (at most 120) and SSIM of images in [0, 1]."""
    error = float((image - photo).square().mean())
    return -10 * math.log10(max(error, 1e-12)), float(ssim(image, photo, data_range=1.0))
