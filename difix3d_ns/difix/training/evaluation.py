"""How much a network improves renders, against doing nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.pairs import Pair, load_pair


@torch.no_grad()
def evaluate(pipeline: DifixPipeline, pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over whole pictures.

    Args:
        pipeline: the network.
        pairs: what to measure on.

    Returns:
        `psnr_` and `ssim_` of `nothing` (the render itself), `without_reference`, and over the pairs that have one
        `with_reference`; empty without pairs.

    Raises:
        DifixError: a picture cannot be read.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        views = load_pair(pair)
        render, photo = views[:1], views[1:2]
        results = {"nothing": render, "without_reference": pipeline(render, output_type="pt").images}
        if len(views) == 3:
            results["with_reference"] = pipeline(render, views[2:], output_type="pt").images
        for name, result in results.items():
            psnr_value, ssim_value = psnr_and_ssim(result.cpu().float(), photo)
            values[f"psnr_{name}"].append(psnr_value)
            values[f"ssim_{name}"].append(ssim_value)
    return {name: sum(each) / len(each) for name, each in sorted(values.items())}


def psnr_and_ssim(
    image: Float[Tensor, "1 3 height width"], photo: Float[Tensor, "1 3 height width"]
) -> tuple[float, float]:
    """PSNR in dB, at most 120, and SSIM of images in [0, 1]."""
    error = float((image - photo).square().mean())
    return -10 * math.log10(max(error, 1e-12)), float(ssim(image, photo, data_range=1.0))
