"""The points from which the training of a splat starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class StartPoints:
    """Points of a scene, in the coordinates of its poses."""

    xyz: npt.NDArray[np.float64]
    """Positions, shape (num_points, 3)."""
    rgb: npt.NDArray[np.float64]
    """Colours in [0, 1], shape (num_points, 3); empty if they are unknown."""

    def write(self, file: Path) -> None:
        """Writes a PLY file."""
        import open3d

        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(self.xyz))
        if len(self.rgb) > 0:
            cloud.colors = open3d.utility.Vector3dVector(self.rgb)
        open3d.io.write_point_cloud(str(file), cloud)


def start_points(metadata: dict[str, Any]) -> StartPoints | None:
    """The start points in the metadata of nerfstudio's `DataparserOutputs`; None if there are none."""
    if "points3D_xyz" not in metadata:
        return None
    xyz, rgb = (metadata[key].double().numpy() for key in ("points3D_xyz", "points3D_rgb"))
    return StartPoints(np.ascontiguousarray(xyz), np.ascontiguousarray(rgb / 255))
