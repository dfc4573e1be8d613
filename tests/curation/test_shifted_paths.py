"""In cycle reconstruction, the scene of renders has the coordinates of the first splat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from scipy.spatial.transform import Rotation

from difix3d_ns.curation.pairs import write_json
from difix3d_ns.curation.shifted_paths import photographed_from_aside
from difix3d_ns.curation.views import PhotoView
from difix3d_ns.errors import Difix3DError

DEPTH = 3.0


def splat(accumulation: float) -> Mock:
    """A pipeline whose renders are gray and have a constant depth."""

    def render(camera: Cameras) -> dict[str, torch.Tensor]:
        size = (int(camera.height), int(camera.width))
        return {
            "rgb": torch.full((*size, 3), 0.5),
            "depth": torch.full((*size, 1), DEPTH),
            "accumulation": torch.full((*size, 1), accumulation),
        }

    points = {"points3D_xyz": torch.tensor([[5.0, -7.0, 2.0]]), "points3D_rgb": torch.tensor([[0, 51, 255]]).byte()}
    datamanager = Mock(spec=FullImageDatamanager)
    datamanager.train_dataparser_outputs = SimpleNamespace(metadata=points)
    return Mock(datamanager=datamanager, model=Mock(get_outputs_for_camera=render))


@pytest.fixture
def photos() -> list[PhotoView]:
    """Two cameras of different sizes and intrinsics, off centre."""
    views = []
    for index in range(2):
        rotation = torch.from_numpy(Rotation.from_rotvec([0.3, -0.5 * index, 0.2]).as_matrix()).float()
        pose = torch.cat([rotation, torch.tensor([[1.0], [2.0], [3.0 + index]])], dim=1)[None]
        camera = Cameras(pose, 50.0 + index, 60.0, 8.0, 6.0, width=16 + index, height=12)
        views.append(PhotoView(Path(f"{index}.jpg"), Path(f"{index}.jpg"), camera))
    return views


def test_the_scene_of_renders_has_the_first_splats_coordinates(photos: list[PhotoView], tmp_path: Path) -> None:
    transforms = photographed_from_aside(splat(accumulation=1.0), photos, tmp_path, shift=0.1)
    write_json(transforms, tmp_path / "transforms.json")
    config = NerfstudioDataParserConfig(
        data=tmp_path / "transforms.json",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        load_3D_points=True,
        downscale_factor=1,
    )
    parsed = config.setup().get_dataparser_outputs("train")
    assert parsed.cameras.width.flatten().tolist() == [16, 17] and parsed.cameras.fx.flatten().tolist() == [50, 51]
    for photo, pose in zip(photos, parsed.cameras.camera_to_worlds, strict=True):
        original = photo.camera.camera_to_worlds[0]
        torch.testing.assert_close(pose[:, :3], original[:, :3])
        # The shift is 0.1 of the depth, along the camera's x axis.
        torch.testing.assert_close(original[:, :3].T @ (pose[:, 3] - original[:, 3]), torch.tensor([0.3, 0.0, 0.0]))
    assert parsed.metadata["points3D_xyz"].tolist() == [[5.0, -7.0, 2.0]]
    assert parsed.metadata["points3D_rgb"].tolist() == [[0, 51, 255]]


def test_a_splat_that_shows_nothing_is_refused(photos: list[PhotoView], tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match="shows nothing"):
        photographed_from_aside(splat(accumulation=0.0), photos, tmp_path, shift=0.1)
