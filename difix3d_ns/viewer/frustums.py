"""Draws the fixed novel views as camera frustums in the viewer's scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import viser.transforms as vtf
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from torch import Tensor
from viser import CameraFrustumHandle, ViserServer

from difix3d_ns.pseudo_views.views import PseudoViewSet

IMAGE_HEIGHT = 100
"""Height in pixels of the image in a frustum, the same as that of training photos in the viewer."""
TEACHING = (255, 211, 105)
"""Colour of views that teach: yellow."""
REJECTED = (224, 49, 49)
"""Colour of rejected views: red."""


class PseudoViewFrustums:
    """Draws the views of the newest fix: pseudo views in yellow with their images, rejected views in red.

    Args:
        server: the viewer's server.
        scale: size of a frustum, in the viewer's units.
        max_views: at most this many views are drawn, evenly spaced among all; no limit if negative.
    """

    def __init__(self, server: ViserServer, scale: float, max_views: int) -> None:
        self._server = server
        self._scale = scale
        self._max_views = max_views
        self._handles: dict[int, CameraFrustumHandle] = {}
        """Frustums by the index of the view's target."""

    def draw(self, views: PseudoViewSet, visible: bool) -> None:
        """Draws these views and removes the earlier ones.

        Raises:
            Difix3DError: a view is on disk and cannot be read.
        """
        all_views = sorted((*views.views, *views.rejected), key=lambda view: view.target)
        num_drawn = len(all_views) if self._max_views < 0 else min(len(all_views), self._max_views)
        drawn = [all_views[int(index)] for index in np.linspace(0, len(all_views) - 1, num_drawn)]
        taught = {view.target: view for view in views.views}
        handles = {}
        for view in drawn:
            image = _thumbnail(taught[view.target].load().image) if view.target in taught else None
            handles[view.target] = self._frustum(view.target, view.camera, image, visible)
        for target in self._handles.keys() - handles.keys():
            self._handles[target].remove()
        self._handles = handles

    def show(self, visible: bool) -> None:
        """Shows or hides all frustums."""
        for handle in self._handles.values():
            handle.visible = visible

    def _frustum(
        self, target: int, camera: Cameras, image: UInt8[np.ndarray, "height width 3"] | None, visible: bool
    ) -> CameraFrustumHandle:
        camera_to_world = camera.camera_to_worlds[0].double().numpy()
        # nerfstudio's cameras look along -z, the viewer's along z.
        rotation = vtf.SO3.from_matrix(camera_to_world[:, :3]) @ vtf.SO3.from_x_radians(np.pi)
        height, width = float(camera.height), float(camera.width)
        handle = self._server.scene.add_camera_frustum(
            f"/pseudo_views/view_{target:05d}",
            fov=2 * float(np.arctan(height / 2 / float(camera.fy))),
            aspect=width / height,
            scale=self._scale,
            color=REJECTED if image is None else TEACHING,
            image=image,
            wxyz=rotation.wxyz,
            position=camera_to_world[:, 3] * VISER_NERFSTUDIO_SCALE_RATIO,
            visible=visible,
        )
        handle.on_click(_look_through)
        return handle


def _look_through(event: Any) -> None:
    """Moves the camera of the user who clicked to the frustum, as a click on a training photo does."""
    with event.client.atomic():
        event.client.camera.position = event.target.position
        event.client.camera.wxyz = event.target.wxyz


def _thumbnail(image: UInt8[Tensor, "height width 3"]) -> UInt8[np.ndarray, "small_height small_width 3"]:
    height, width = image.shape[:2]
    size = (min(IMAGE_HEIGHT, height), max(1, round(width * min(IMAGE_HEIGHT, height) / height)))
    values = image.permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).byte().cpu().numpy()
