"""The crop of a camera path: the box of the scene that is rendered, and the background around it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nerfstudio.model_components.renderers import background_color_override_context
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.scripts.render import CropData, get_crop_from_json

from difix3d_ns.cameras.path_files import CameraPath
from difix3d_ns.difix.errors import UNEXPECTED_CONTENT
from difix3d_ns.errors import Difix3DError

BOX_ENTRIES = ("crop_center", "crop_scale", "crop_rot")
"""Entries of a crop that place its box. They may be whole numbers, of which nerfstudio's box cannot be made."""


def read_crop(path: CameraPath, file: Path) -> CropData | None:
    """The crop that the viewer saves with a camera path; None if it has none.

    Args:
        path: the path.
        file: the file that it was read from.

    Raises:
        Difix3DError: the crop has missing or invalid values.
    """
    try:
        content = path.content.get("crop")
        if content is None:
            return None
        box = {name: [float(number) for number in content[name]] for name in BOX_ENTRIES if name in content}
        crop = get_crop_from_json({"crop": {**content, **box}})
        assert crop is not None
        numbers = [*crop.obb.R.flatten().tolist(), *crop.obb.T.tolist(), *crop.background_color.tolist()]
        is_usable = all(map(math.isfinite, numbers)) and bool(((crop.obb.S > 0) & crop.obb.S.isfinite()).all())
    except UNEXPECTED_CONTENT as error:
        raise Difix3DError(f"the crop in {file} cannot be read ({error!r}): save it in the viewer again.") from error
    if not is_usable:
        raise Difix3DError(
            f"the crop in {file} is not a box: its crop_scale must have three numbers above 0, and its other numbers "
            "must be finite."
        )
    return crop


@contextmanager
def background_of(crop: CropData, model: Model) -> Iterator[None]:
    """A context in which a model renders the background of a crop.

    nerfstudio's own context has no effect on splats, which take the colour that `set_background` sets, and only if the
    background of their training is random.
    """
    color = crop.background_color.to(model.device)
    with background_color_override_context(color):
        if not isinstance(model, SplatfactoModel):
            yield
            return
        before, config = model.background_color, model.config
        model.background_color, model.config = color, replace(config, background_color="random")
        try:
            yield
        finally:
            model.background_color, model.config = before, config
