"""What each pixel of a rendered frame shows and where: by it a frame is carried into the view of the next."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel

from difix3d_ns.errors import Difix3DError
from difix3d_ns.rendering.runs import Outputs
from difix3d_ns.videos.flicker import FrameGeometry


def frame_geometry(model: Model, camera: Cameras, outputs: Outputs) -> FrameGeometry:
    """Camera and depth of a rendered frame.

    Args:
        model: what rendered it: Gaussians, whose depth lies along the optical axis, or one of nerfstudio's ray-based
            models, whose depth lies along the pixel's ray.
        camera: shape (1,), a perspective one without distortion.
        outputs: what the model rendered.

    Returns:
        The geometry, on the outputs' device.

    Raises:
        Difix3DError: the camera is no perspective one, or the model renders no such depth.
    """
    require_carriable(camera)
    along_rays = type(model).get_outputs_for_camera is Model.get_outputs_for_camera
    if not (isinstance(model, SplatfactoModel) or along_rays) or not {"depth", "accumulation"} <= {*outputs}:
        raise Difix3DError(
            f"{type(model).__name__} renders no depth by which frames could be carried into each other's views."
        )
    depth, accumulation = outputs["depth"], outputs["accumulation"]
    K = camera.get_intrinsics_matrices()[0].to(depth)
    if along_rays:
        depth = depth / ray_lengths(K, *depth.shape[:2])
    return FrameGeometry(camera.camera_to_worlds[0].to(depth), K, depth, accumulation)


def require_carriable(cameras: Cameras) -> None:
    """Raises Difix3DError where cameras are no perspective ones, whose frames alone can be carried."""
    kind = CameraType(int(cameras.camera_type.flatten()[0]))
    if kind is not CameraType.PERSPECTIVE:
        raise Difix3DError(
            f"frames of {kind.name.lower()} cameras cannot be carried into each other's views: only perspective ones."
        )


def ray_lengths(K: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """How far along its ray each pixel's point at depth 1 lies, (height, width, 1); K (3, 3) is in pixels."""
    rows = (torch.arange(height, device=K.device) + 0.5 - K[1, 2]) / K[1, 1]
    columns = (torch.arange(width, device=K.device) + 0.5 - K[0, 2]) / K[0, 0]
    return (1 + rows[:, None] ** 2 + columns[None] ** 2).sqrt()[..., None]
