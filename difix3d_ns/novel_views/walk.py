"""The walk of the novel views: from the photos nearest to their targets, a step at every fix, until they arrive."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.poses import camera_with_pose, nearest_poses, step_towards, steps_to_arrive
from difix3d_ns.errors import Difix3DError


class NovelViewWalk:
    """Where the novel views stand.

    Args:
        targets: cameras to arrive at, shape (num_views,).
        photos: poses of the training photos.
        step_length: length of a step, in `unit`s.
        unit: a length in scene units; it is also what the distance to the nearest photo is measured in.

    Attributes:
        poses: the novel views' poses; each starts at the photo nearest to its target.

    Raises:
        Difix3DError: the step has no length.
    """

    def __init__(
        self, targets: Cameras, photos: Float[Tensor, "num_photos 3 4"], step_length: float, unit: float = 1.0
    ) -> None:
        if not 0 < step_length < float("inf"):
            raise Difix3DError(f"--pipeline.step-length is {step_length}: give a length above 0.")
        self.targets = targets
        self.target_poses: Float[Tensor, "num_views 3 4"] = targets.camera_to_worlds.cpu()
        self.poses: Float[Tensor, "num_views 3 4"] = photos[nearest_poses(self.target_poses, photos, unit)]
        self._unit = unit
        self._step_length = step_length * unit

    def __len__(self) -> int:
        return len(self.poses)

    def go_on_from(self, poses: Float[Tensor, "num_poses 3 4"]) -> None:
        """Puts the views where an earlier run left them.

        A pose that is farther from its target than the nearest photo is of a walk to another target and is left out;
        so are all poses if their number is not that of the targets.
        """
        if len(poses) != len(self.poses):
            return
        ends = self.target_poses[:, :, 3]
        earlier, here = ((ends - start[:, :, 3]).norm(dim=-1) for start in (poses, self.poses))
        self.poses = torch.where((earlier <= here)[:, None, None], poses, self.poses)

    def advance(self) -> None:
        """Moves every view a step towards its target."""
        self.poses = step_towards(self.poses, self.target_poses, self._step_length)

    def cameras(self) -> list[Cameras]:
        """The novel views' cameras, shape (1,) each: the targets' with the poses of the moment."""
        return [camera_with_pose(self.targets[i : i + 1], pose) for i, pose in enumerate(self.poses)]

    @property
    def num_arrived(self) -> int:
        """How many views stand at their targets."""
        return int((self.poses == self.target_poses).all(dim=-1).all(dim=-1).sum())

    @property
    def num_fixes_to_arrive(self) -> int:
        """How many fixes the farthest view needs from here."""
        return steps_to_arrive(self.poses, self.target_poses, self._step_length)

    def step_length_to_arrive(self, num_fixes: int) -> float:
        """The step length, in the unit of `step_length`, with which all views arrive after `num_fixes` fixes."""
        farthest = (self.target_poses[:, :, 3] - self.poses[:, :, 3]).norm(dim=-1).max()
        return float(farthest) / (max(1, num_fixes) * self._unit)
