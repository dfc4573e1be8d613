"""Outputs of a model as images, coloured in the same way as by `ns-render`."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    colormap: ColormapOptions = field(default_factory=ColormapOptions)
    """Colour map for outputs of one channel."""


def picture(outputs: Outputs, name: str, options: PictureOptions) -> Float[Tensor, "height width channels"]:
    """One output as an image in [0, 1]: colours and `rgba` unchanged, all others by a colour map.

    Raises:
        Difix3DError: the output has no shape of an image.
    """
    image = outputs[name]
    if name == "rgba":
        return image.detach()
    try:
        if "depth" in name:
            return apply_depth_colormap(
                image,
                accumulation=outputs.get("accumulation"),
                near_plane=options.depth_near_plane,
                far_plane=options.depth_far_plane,
                colormap_options=options.colormap,
            )
        return apply_colormap(image, colormap_options=options.colormap)
    except NotImplementedError as error:
        raise Difix3DError(
            f"the output {name} of shape {tuple(image.shape)} is not an image: leave it out of --rendered-output-names."
        ) from error


def require_names(names: list[str], offered: list[str]) -> None:
    """Raises Difix3DError if one of the requested outputs does not exist.

    Args:
        names: the requested outputs.
        offered: the outputs that exist.
    """
    for name in names:
        if name not in offered:
            raise Difix3DError(f"there is no output {name}: choose --rendered-output-names among {', '.join(offered)}.")
