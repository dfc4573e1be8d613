"""The points from which the training of a splat starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from difix3d_ns.images.point_clouds import PointCloud, write_point_cloud


@dataclass(frozen=True)
class StartPoints:
    """Points of a scene, in the coordinates of its poses."""

    xyz: npt.NDArray[np.float64]
    """Positions, shape (num_points, 3)."""
    rgb: npt.NDArray[np.float64]
    """Colours in [0, 1], shape (num_points, 3); empty if they are unknown."""

    def write(self, file: Path) -> None:
        """Writes a PLY file."""
        colors = np.clip(np.round(self.rgb * 255), 0, 255).astype(np.uint8)
        write_point_cloud(file, PointCloud(self.xyz.astype(np.float32), colors))


def start_points(metadata: dict[str, Any]) -> StartPoints | None:
    """The start points in the metadata of nerfstudio's `DataparserOutputs`; None if there are none."""
    if "points3D_xyz" not in metadata:
        return None
    xyz, rgb = (metadata[key].double().numpy() for key in ("points3D_xyz", "points3D_rgb"))
    return StartPoints(np.ascontiguousarray(xyz), np.ascontiguousarray(rgb / 255))
