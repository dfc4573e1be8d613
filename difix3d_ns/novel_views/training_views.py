"""What the loop of novel views needs of a datamanager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.pseudo_views.bank import PseudoViewBank


class TrainingViews(Protocol):
    """The photos that a scene is trained on, and the bank that receives fixed views."""

    pseudo_views: PseudoViewBank

    @property
    def train_dataset(self) -> InputDataset:
        """The training photos and their cameras."""
        ...

    @property
    def train_camera_to_worlds(self) -> Float[Tensor, "num_photos 3 4"]:
        """Poses of the training photos, on the CPU."""
        ...

    @property
    def eval_cameras(self) -> Cameras | None:
        """Cameras of the evaluation split; None if it is empty."""
        ...

    @property
    def scene_radius(self) -> float:
        """Largest distance of a training or evaluation camera from the centre of them all, in scene units."""
        ...

    def training_photos(self, indices: Sequence[int | None]) -> list[Float[Tensor, "height width 3"] | None]:
        """Several training photos in [0, 1], on the CPU; None for None."""
        ...

    def training_mask(self, index: int) -> Bool[Tensor, "height width 1"] | None:
        """The valid pixels of a training photo, on the CPU; None if it has no mask."""
        ...
