"""The background of a model's renders, over which transparent photos are composited."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.colors import get_color
from torch import Tensor


def background_color(model: Model) -> Float[Tensor, "3"]:
    """The colour behind a model's renders in evaluation, in [0, 1] and on the CPU; black if it is not known.

    A run that trains over random backgrounds is evaluated over one colour.
    """
    if isinstance(model, SplatfactoModel):
        trained = model.config.background_color
        color = model.background_color if trained == "random" else get_color(trained)
        return color.detach().cpu().float()
    renderer = getattr(model, "renderer_rgb", None)
    if renderer is None:
        return torch.zeros(3)
    # nerfstudio's renderers reveal it only by what they put behind a transparent pixel.
    return renderer.blend_background(torch.zeros(1, 4))[0].cpu()
