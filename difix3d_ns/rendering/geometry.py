"""Camera and depth of a rendered frame, by which the frame can be warped into the view of the next one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.rendering.runs import Outputs
from difix3d_ns.videos.flicker import FrameGeometry


def frame_geometry(model: Model, camera: Cameras, outputs: Outputs) -> FrameGeometry:
    """Camera and depth of a rendered frame.

    Args:
        model: the model that rendered the frame: a splat, whose depth is measured along the optical axis, or one of
            nerfstudio's ray-based models, whose depth is measured along the ray of the pixel.
        camera: a perspective camera without distortion, shape (1,).
        outputs: the outputs of the model.

    Returns:
        The geometry, on the outputs' device.

    Raises:
        Difix3DError: the camera is not a perspective camera, or the model does not render such a depth.
    """
    require_carriable(camera)
    if not renders_depth(model) or not {"depth", "accumulation"} <= {*outputs}:
        raise Difix3DError(
            f"{type(model).__name__} renders no depth to warp frames into each other's views: use a splat, or one of "
            "nerfstudio's ray-based methods."
        )
    depth, accumulation = outputs["depth"], outputs["accumulation"]
    K = camera.get_intrinsics_matrices()[0].to(depth)
    if _measures_along_rays(model):
        depth = depth / ray_lengths(K, *depth.shape[:2])
    return FrameGeometry(camera.camera_to_worlds[0].to(depth), K, depth, accumulation)


def renders_depth(model: Model) -> bool:
    """Whether it is known how a model measures its depth, if it renders any."""
    return isinstance(model, SplatfactoModel) or _measures_along_rays(model)


def _measures_along_rays(model: Model) -> bool:
    return isinstance(model, NerfactoModel) or type(model).get_outputs_for_camera is Model.get_outputs_for_camera


def require_carriable(cameras: Cameras) -> None:
    """Raises Difix3DError unless the cameras are perspective cameras: only their frames can be warped by depth."""
    kind = CameraType(int(cameras.camera_type.flatten()[0]))
    if kind is not CameraType.PERSPECTIVE:
        raise Difix3DError(
            f"frames of {kind.name.lower()} cameras cannot be warped into each other's views: use perspective cameras."
        )


def ray_lengths(K: Float[Tensor, "3 3"], height: int, width: int) -> Float[Tensor, "height width 1"]:
    """Length of each pixel's ray up to depth 1 along the optical axis.

    Args:
        K: intrinsics in pixels.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    rows = (torch.arange(height, device=K.device) + 0.5 - K[1, 2]) / K[1, 1]
    columns = (torch.arange(width, device=K.device) + 0.5 - K[0, 2]) / K[0, 0]
    return (1 + rows[:, None] ** 2 + columns[None] ** 2).sqrt()[..., None]
