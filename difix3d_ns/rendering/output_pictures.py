"""Outputs of a model as images, coloured in the same way as by `ns-render`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.rendering.runs import Outputs


@dataclass(frozen=True)
class PictureOptions:
    """How outputs that are not colours become images."""

    depth_near_plane: float | None = None
    """Nearest depth of the colour map, in scene units; None for the smallest depth of each frame."""
    depth_far_plane: float | None = None
    """Farthest depth of the colour map, in scene units; None for the largest depth of each frame."""
    colormap: Mapping[str, Any] = field(default_factory=dict)
    """Given settings of nerfstudio's `ColormapOptions` for outputs of one channel, by field name."""


def picture(outputs: Outputs, name: str, options: PictureOptions) -> Float[Tensor, "height width channels"]:
    """One output as an image in [0, 1]: colours and `rgba` unchanged, all others by a colour map.

    Raises:
        Difix3DError: the output has no shape of an image.
    """
    image, colormap = outputs[name], ColormapOptions(**options.colormap)
    if name == "rgba":
        return image.detach()
    try:
        if "depth" in name:
            return apply_depth_colormap(
                image,
                accumulation=outputs.get("accumulation"),
                near_plane=options.depth_near_plane,
                far_plane=options.depth_far_plane,
                colormap_options=colormap,
            )
        return apply_colormap(image, colormap_options=colormap)
    except NotImplementedError as error:
        raise Difix3DError(
            f"the output {name} of shape {tuple(image.shape)} is not an image: leave it out of --rendered-output-names."
        ) from error


def require_used_picture_options(options: PictureOptions, names: Sequence[str]) -> None:
    """Makes sure that the range of depths is valid and applies to one of the outputs.

    Args:
        options: how outputs become images.
        names: the outputs that are written as images.

    Raises:
        Difix3DError: the range is invalid, or no depth is written as an image.
    """
    for option, plane in (
        ("--depth-near-plane", options.depth_near_plane),
        ("--depth-far-plane", options.depth_far_plane),
    ):
        if plane is None:
            continue
        if not math.isfinite(plane):
            raise Difix3DError(f"{option} must be a number, not {plane}.")
        if not any("depth" in name for name in names):
            raise Difix3DError(f"{option} colours images of depth: add depth to --rendered-output-names.")
    near, far = options.depth_near_plane, options.depth_far_plane
    if near is not None and far is not None and not near < far:
        raise Difix3DError(f"--depth-near-plane {near} must be below --depth-far-plane {far}.")


def require_used_colormap(options: PictureOptions, outputs: Outputs, names: Sequence[str]) -> None:
    """Makes sure that a given colour map applies to one of the outputs.

    Args:
        options: how outputs become images.
        outputs: the outputs of a frame.
        names: the outputs that are written as images.

    Raises:
        Difix3DError: no output has the one channel that a colour map is for, or the colour map is not for one channel.
    """
    shown = [outputs[name] for name in names if name in outputs]
    is_used = any(image.shape[-1] == 1 and torch.is_floating_point(image) for image in shown)
    for name in options.colormap:
        if not is_used:
            raise Difix3DError(
                f"--colormap-options.{name.replace('_', '-')} is for outputs of one channel, such as depth, and "
                f"{', '.join(names)} have none: leave it out."
            )
    if is_used and options.colormap.get("colormap") == "pca":
        raise Difix3DError(
            "--colormap-options.colormap pca is not for outputs of one channel, such as depth: choose another one."
        )


def require_names(names: list[str], offered: list[str]) -> None:
    """Raises Difix3DError if one of the requested outputs does not exist.

    Args:
        names: the requested outputs.
        offered: the outputs that exist.
    """
    for name in names:
        if name not in offered:
            raise Difix3DError(f"there is no output {name}: choose --rendered-output-names among {', '.join(offered)}.")
