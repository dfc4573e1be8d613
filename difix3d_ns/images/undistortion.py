"""Undistortion: the pinhole cameras and images that nerfstudio makes of photos with lens distortion."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
from torch import Tensor

Image = TypeVar("Image", bound=Shaped[np.ndarray, "height width *channels"])


class Undistortion:
    """Undistorts the photos of some cameras as nerfstudio's full-image datamanager does for splatfacto.

    nerfstudio undistorts when it caches the photos, and only then overwrites the intrinsics and sizes of the cameras.
    Here the undistorted cameras are known from the beginning and never change.

    Args:
        cameras: as the dataparser gives them, shape (num_photos,).

    Attributes:
        cameras: without distortion. Those of photos without distortion are the given ones.
    """

    def __init__(self, cameras: Cameras) -> None:
        self._distorted = deepcopy(cameras)
        self.cameras = cameras
        parameters = cameras.distortion_params
        if parameters is None:
            self._indices: set[int] = set()
            return
        # A scene that is read without its photos has images of one pixel.
        is_distorted = (parameters != 0).any(dim=-1) & (cameras.width.flatten() > 1)
        # Checks of the scene refuse invalid cameras, and perspective ones with k4, which nerfstudio cannot undistort.
        numbers = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy, parameters], dim=-1)
        is_distorted &= numbers.isfinite().all(dim=-1) & (numbers[:, :2] > 0).all(dim=-1)
        is_perspective = cameras.camera_type.flatten() == CameraType.PERSPECTIVE.value
        is_distorted &= ~(is_perspective & (parameters[:, 3] != 0))
        self._indices = set(is_distorted.nonzero().flatten().tolist())
        if not self._indices:
            return
        self.cameras = deepcopy(cameras)
        known: dict[tuple[float, ...], tuple[np.ndarray, tuple[int, int]]] = {}
        for index in sorted(self._indices):
            camera = self._distorted[index]
            facts = (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, camera.camera_type)
            key = (*(float(fact) for fact in facts), *parameters[index].tolist())
            if key not in known:
                blank = np.zeros((int(camera.height), int(camera.width)), np.uint8)
                intrinsics, image, _ = self._undistorted(index, blank)
                known[key] = intrinsics, (image.shape[1], image.shape[0])
            intrinsics, size = known[key]
            for name, (row, column) in {"fx": (0, 0), "fy": (1, 1), "cx": (0, 2), "cy": (1, 2)}.items():
                getattr(self.cameras, name)[index] = float(intrinsics[row, column])
            self.cameras.width[index], self.cameras.height[index] = size
            self.cameras.camera_type[index] = CameraType.PERSPECTIVE.value
            assert self.cameras.distortion_params is not None
            self.cameras.distortion_params[index] = 0.0

    def __contains__(self, index: int) -> bool:
        """Whether a photo has lens distortion."""
        return index in self._indices

    def size_before(self, index: int) -> tuple[int, int]:
        """Height and width of a photo with its distortion."""
        camera = self._distorted[index]
        return int(camera.height), int(camera.width)

    def apply(self, index: int, image: Image) -> Image:
        """The image of a photo's size, such as the photo itself or its mask, without distortion."""
        return self._undistorted(index, image)[1] if index in self else image

    def circle(self, index: int) -> Bool[np.ndarray, "height width"] | None:
        """The undistorted pixels inside the image circle of a FISHEYE624 photo; None for other photos."""
        if index not in self or int(self._distorted.camera_type[index]) != CameraType.FISHEYE624.value:
            return None
        mask = self._undistorted(index, np.zeros(self.size_before(index), np.uint8))[2]
        assert mask is not None
        return mask[..., 0].numpy()

    def _undistorted(self, index: int, image: Image) -> tuple[np.ndarray, Image, Bool[Tensor, "height width 1"] | None]:
        camera = self._distorted[index].reshape(())
        assert camera.distortion_params is not None
        intrinsics = camera.get_intrinsics_matrices().numpy().copy()
        return _undistort_image(camera, camera.distortion_params.numpy(), {}, image, intrinsics)  # type: ignore[return-value]
