"""Fuses a render with an aligned reference, one band of frequencies at a time.

An aligned reference holds photos warped into the render's view, with a fourth channel in [0, 1] that says how far each
pixel is to be trusted. Where it is right, it is as sharp as the photos. Where the depth was wrong, it shows the wrong
thing. So a network does not have to make an image. It only has to say where, and for which details, the reference is
better than the render. Instead of two images it gets measures of how they compare, and it returns a factor for each
band of the difference between reference and render: how much of it is added to the render. 0 leaves the render as it
is, and 1 gives the band of the reference. The bands are those of a Laplacian pyramid (Burt and Adelson 1983). Where
nothing is known of the difference, it is filled in from coarser levels, which carries changes of colour across holes.

Without a reference the result is the render. Factors on the render's own bands, which sharpen it, and a free change of
colour were tried: on scenes that took no part in the training, each of them cost 0.02 dB.

Network and factors work at half the resolution, and the bands at the full one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STRIDE = 2
"""Pixels of the images per pixel of the network's inputs and outputs, along a side."""
NUM_LEVELS = 5
"""Levels of the pyramids; each has half the resolution of the one before it."""
NUM_OUTPUTS = NUM_LEVELS
"""Channels that the network returns: factors on the bands of the difference, the finest first."""
NUM_INPUTS = 3 + 3 + 1 + 2 + 2 + 3 * (NUM_LEVELS - 1)
"""Channels that the network gets, see `comparison`."""
POOLED = (4, 4, 2, 2)
"""Side, in pixels of each band, of the squares in which contrasts and correlations are measured."""
TRUSTED = 0.03
"""Fourth channel of the reference from which the reference alone gives the difference; below, also its surroundings."""
CONTRAST = 0.02
"""Contrast, for colours in [-1, 1], that counts as noise in correlations."""
AMPLIFICATION = 4.0
"""Factor on bands and differences in the inputs, which gives them about the spread of the colours."""

Images = Float[Tensor, "batch channels height width"]


def comparison(
    images: Float[Tensor, "batch views 4 height width"],
) -> Float[Tensor, "batch inputs half_height half_width"]:
    """Measures how a render and its aligned reference compare.

    Args:
        images: render and reference, or the render alone. Three colours in [-1, 1] and a fourth channel, which is
            ignored in the render. Sides are divisible by 2 ** (NUM_LEVELS - 1).

    Returns:
        At half the resolution: the render, the difference to the reference, the trust in the reference, its coverage
        around the pixel in two sizes, the contrast of both in the finest band, and for all bands the contrast of
        the render, the contrast of the reference and their correlation.
    """
    render, difference, trust, coverages = _render_and_difference(images)
    size = (images.shape[-2] // STRIDE, images.shape[-1] // STRIDE)
    render_bands = _bands(_pyramid(render.mean(dim=1, keepdim=True)))
    difference_bands = _bands([level.mean(dim=1, keepdim=True) for level in difference])
    channels = [
        F.avg_pool2d(render, STRIDE),
        AMPLIFICATION * difference[1],
        F.avg_pool2d(trust, STRIDE),
        coverages[1],
        _resized(coverages[3], size),
        *(AMPLIFICATION * F.avg_pool2d(bands[0].abs(), STRIDE) for bands in (render_bands, difference_bands)),
    ]
    for level, side in enumerate(POOLED):
        of_render, of_reference = render_bands[level], render_bands[level] + difference_bands[level]
        products = (of_render.square(), of_reference.square(), of_render * of_reference)
        own, others, both = (F.avg_pool2d(product, side) for product in products)
        correlation = both / ((own + CONTRAST**2) * (others + CONTRAST**2)).sqrt()
        contrasts = (AMPLIFICATION * (each + 1e-6).sqrt() for each in (own, others))
        channels += [_resized(each, size) for each in (*contrasts, correlation)]
    return torch.cat(channels, dim=1)


def fuse(
    images: Float[Tensor, "batch views 4 height width"],
    factors: Float[Tensor, "batch outputs half_height half_width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Fuses a render and its aligned reference.

    Args:
        images: as in `comparison`.
        factors: what the network returns.

    Returns:
        The fused image in about [-1, 1], not clamped; the render where all factors are 0.
    """
    render, difference, _, _ = _render_and_difference(images)
    change = torch.zeros_like(difference[-1])
    bands = _bands(difference)
    for level in reversed(range(NUM_LEVELS)):
        band = bands[level]
        change = _resized(change, band.shape[-2:]) + _at(factors[:, level : level + 1], band) * band
    return render + change


def _render_and_difference(images: Tensor) -> tuple[Images, list[Images], Images, list[Images]]:
    """The render, the pyramid of the filled difference to the reference, the trust in it, and its coverage."""
    render = images[:, 0, :3]
    if images.shape[1] == 1:
        reference, trust = render, torch.zeros_like(render[:, :1])
    else:
        reference, trust = images[:, 1, :3], images[:, 1, 3:].clamp(0, 1)
    sums, weights = [(reference - render) * trust], [trust]
    for _ in range(NUM_LEVELS - 1):
        sums.append(F.avg_pool2d(sums[-1], 2))
        weights.append(F.avg_pool2d(weights[-1], 2))
    means = [total / weight.clamp_min(1e-6) for total, weight in zip(sums, weights, strict=True)]
    coverages = [(weight / TRUSTED).clamp(0, 1) for weight in weights]
    filled = [means[-1] * coverages[-1]]
    for mean, coverage in zip(reversed(means[:-1]), reversed(coverages[:-1]), strict=True):
        around = _resized(filled[0], mean.shape[-2:])
        filled.insert(0, around + coverage * (mean - around))
    return render, filled, trust, coverages


def _pyramid(image: Images) -> list[Images]:
    levels = [image]
    for _ in range(NUM_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _bands(pyramid: list[Images]) -> list[Images]:
    """What each level adds to the next coarser one, and the last level as it is."""
    finer = [level - _resized(coarser, level.shape[-2:]) for level, coarser in pairwise(pyramid)]
    return [*finer, pyramid[-1]]


def _at(factors: Images, band: Images) -> Images:
    """Factors at the resolution of a band."""
    if factors.shape[-1] > band.shape[-1]:
        return F.avg_pool2d(factors, factors.shape[-1] // band.shape[-1])
    return _resized(factors, band.shape[-2:])


def _resized(values: Images, size: tuple[int, int] | torch.Size) -> Images:
    """Bilinear enlargement."""
    return values if values.shape[-2:] == size else F.interpolate(values, tuple(size), mode="bilinear")
