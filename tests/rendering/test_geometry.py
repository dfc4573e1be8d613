"""The depth of splats and ray-based models as depth along the optical axis."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel

from difix3d_ns.errors import Difix3DError
from difix3d_ns.model import Difix3DModel
from difix3d_ns.rendering.geometry import frame_geometry

HEIGHT, WIDTH = 12, 16


def camera(kind: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    pose = torch.eye(4)[None, :3]
    return Cameras(pose, 10.0, 14.0, 7.0, 5.5, WIDTH, HEIGHT, camera_type=kind)


def model_of(kind: type[Model]) -> Model:
    """A model that cannot render, as only its type is used."""
    return kind.__new__(kind)


def outputs(depth: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"rgb": torch.zeros(HEIGHT, WIDTH, 3), "depth": depth, "accumulation": torch.ones(HEIGHT, WIDTH, 1)}


def test_distances_along_rays_become_depth_along_the_axis() -> None:
    rays = camera().generate_rays(0, keep_shape=True)
    assert rays.metadata is not None
    # Distances to a wall at depth 3: the farther a ray is from the axis, the longer it is.
    along_rays = 3.0 * rays.metadata["directions_norm"]
    assert along_rays.max() > 3.5
    found = frame_geometry(model_of(NerfactoModel), camera(), outputs(along_rays))
    assert torch.allclose(found.depth, torch.full((HEIGHT, WIDTH, 1), 3.0), atol=1e-5)


def test_depth_of_gaussians_is_along_the_axis_already() -> None:
    depth = torch.rand(HEIGHT, WIDTH, 1) + 1
    found = frame_geometry(model_of(Difix3DModel), camera(), outputs(depth))
    assert torch.equal(found.depth, depth)
    assert torch.equal(found.K, camera().get_intrinsics_matrices()[0])


def test_only_perspective_cameras_are_accepted() -> None:
    with pytest.raises(Difix3DError, match="equirectangular"):
        frame_geometry(model_of(NerfactoModel), camera(CameraType.EQUIRECTANGULAR), outputs(torch.ones(1, 1, 1)))


def test_a_model_without_depth_is_refused() -> None:
    class OtherModel(Model):
        def get_outputs_for_camera(self, camera, obb_box=None):
            raise NotImplementedError

    without = {name: value for name, value in outputs(torch.ones(HEIGHT, WIDTH, 1)).items() if name != "depth"}
    for kind, rendered in ((NerfactoModel, without), (OtherModel, outputs(torch.ones(HEIGHT, WIDTH, 1)))):
        with pytest.raises(Difix3DError, match="renders no depth"):
            frame_geometry(model_of(kind), camera(), rendered)
