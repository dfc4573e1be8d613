"""Augmentations of training examples that teach the network to use the reference.

A render and its photo mostly agree, so a network learns to clean without the reference and then ignores it. Damaging
only the render, so that only another view of the scene can repair it, forces the network to use the reference. This is
easiest to learn if the reference is the photo itself, slightly moved. All random numbers come from the caller's
generator.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.images import resize

DAMAGE_PROBABILITY = 0.6
"""Probability of each kind of damage in a damaged image; at least one kind is always applied."""
MAX_GAIN, MAX_OFFSET = 0.6, 0.3
"""Largest change of a colour channel: logarithm of its gain, and its offset."""
MAX_BLUR = 16
"""Largest factor by which an image is downscaled and upscaled again to blur it."""
HAZE_CELLS = 5
"""Largest number of cells along a side of the grid from which haze is interpolated."""
MAX_TURN, MAX_ZOOM, MAX_SHIFT, MAX_TILT = math.radians(10), 0.15, 0.15, 0.1
"""Largest motion of a view: rotation in radians, logarithm of the zoom factor, shift as a fraction of the image's side,
and perspective terms of the homography on coordinates in [-1, 1]."""
MAX_MISALIGNED_SHARE = 0.5
"""Largest share of these motions, and of `MAX_GAIN` and `MAX_OFFSET`, by which a reference is misaligned."""


def damage(picture: Float[Tensor, "3 height width"], draw: random.Random) -> Float[Tensor, "3 height width"]:
    """Damages an image as a splat trained on few photos does, but more strongly: colour shifts, patchy haze and blur.

    Args:
        picture: image in [0, 1].
        draw: source of random numbers.
    """
    kinds = (_shift_colours, _add_haze, _blur)
    chosen = [kind for kind in kinds if draw.random() < DAMAGE_PROBABILITY] or [draw.choice(kinds)]
    for kind in chosen:
        picture = kind(picture, draw)
    return picture


def misalign(reference: Float[Tensor, "4 height width"], draw: random.Random) -> Float[Tensor, "4 height width"]:
    """Moves an aligned reference and changes its colours, between hardly and grossly; its alpha stays as high.

    Depth is often wrong where few photos show a place, and then a reference looks right but shows the wrong thing. A
    network that only sees scenes with good depth would trust every reference.

    Args:
        reference: colours in [0, 1] and alpha.
        draw: source of random numbers.
    """
    # Squared, as a small error is the more common one.
    moved = move_view(reference, draw, MAX_MISALIGNED_SHARE * draw.random() ** 2)
    colours = _shift_colours(moved[:3], draw, MAX_MISALIGNED_SHARE * draw.random() ** 2)
    return torch.cat([colours, moved[3:]])


def move_view(
    picture: Float[Tensor, "channels height width"], draw: random.Random, share: float = 1.0
) -> Float[Tensor, "channels height width"]:
    """Rotates, zooms, shifts and tilts an image at random, as if seen from a nearby camera. Borders are mirrored.

    Args:
        picture: image in [0, 1].
        draw: source of random numbers.
        share: factor on the largest motions.
    """
    turn, zoom = share * draw.uniform(-MAX_TURN, MAX_TURN), math.exp(share * draw.uniform(-MAX_ZOOM, MAX_ZOOM))
    shift_x, shift_y = (2 * share * draw.uniform(-MAX_SHIFT, MAX_SHIFT) for _ in range(2))
    tilt_x, tilt_y = (share * draw.uniform(-MAX_TILT, MAX_TILT) for _ in range(2))
    cosine, sine = zoom * math.cos(turn), zoom * math.sin(turn)
    homography = torch.tensor([[cosine, -sine, shift_x], [sine, cosine, shift_y], [tilt_x, tilt_y, 1.0]])
    height, width = picture.shape[-2:]
    rows, columns = (torch.linspace(-1 + 1 / side, 1 - 1 / side, side) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ homography.T
    grid = (points[..., :2] / points[..., 2:])[None]
    return F.grid_sample(picture[None], grid, padding_mode="reflection", align_corners=False)[0]


def _shift_colours(picture: Tensor, draw: random.Random, share: float = 1.0) -> Tensor:
    gain, offset = (
        share * torch.tensor([draw.uniform(-largest, largest) for _ in range(3)])[:, None, None]
        for largest in (MAX_GAIN, MAX_OFFSET)
    )
    return ((picture - 0.5) * gain.exp() + 0.5 + offset).clamp(0, 1)


def _add_haze(picture: Tensor, draw: random.Random) -> Tensor:
    """Blends the image towards one colour, with an opacity that varies smoothly between 0 and 1."""
    cells = draw.randint(2, HAZE_CELLS)
    density = torch.tensor([draw.gauss(0.0, 3.0) for _ in range(cells * cells)]).reshape(1, 1, cells, cells)
    opacity = F.interpolate(density, picture.shape[-2:], mode="bicubic", align_corners=True)[0].sigmoid()
    colour = torch.tensor([draw.random() for _ in range(3)])[:, None, None]
    return picture.lerp(colour.expand_as(picture), opacity.expand_as(picture))


def _blur(picture: Tensor, draw: random.Random) -> Tensor:
    height, width = picture.shape[-2:]
    factor = math.exp(draw.uniform(0.0, math.log(MAX_BLUR)))
    small = resize(picture[None], max(1, round(height / factor)), max(1, round(width / factor)))
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)
