"""Outputs of a model as pictures, coloured as by `ns-render`."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap, apply_depth_colormap
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.rendering.runs import Outputs


@dataclass(frozen=True)
class PictureOptions:
    """How outputs that are no colours become pictures."""

    depth_near_plane: float | None = None
    """Closest depth of the colour map, in scene units; None for the least depth of a frame."""
    depth_far_plane: float | None = None
    """Farthest depth of the colour map; None for the greatest of a frame."""
    colormap: ColormapOptions = field(default_factory=ColormapOptions)
    """Colours of single-channel outputs."""


def picture(outputs: Outputs, name: str, options: PictureOptions) -> Float[Tensor, "height width channels"]:
    """One output as a picture in [0, 1]: colours and `rgba` as they are, all others by a colour map.

    Raises:
        Difix3DError: the output is no picture.
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
        raise Difix3DError(f"the output {name} of shape {tuple(image.shape)} is no picture.") from error


def require_names(names: list[str], offered: list[str]) -> None:
    """Makes sure that all outputs that were asked for exist.

    Raises:
        Difix3DError: one does not.
    """
    for name in names:
        if name not in offered:
            raise Difix3DError(
                f"there is no output {name}: set --rendered-output-names to some of {', '.join(offered)}."
            )
