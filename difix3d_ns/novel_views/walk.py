"""Novel views walk from the photos nearest to their targets to the targets, one step at every fix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.poses import camera_with_pose, nearest_poses, step_towards, steps_to_arrive
from difix3d_ns.errors import Difix3DError


class NovelViewWalk:
    """The poses of the novel views on the way to their targets.

    Args:
        targets: cameras to arrive at, shape (num_views,).
        train_poses: poses of the training photos.
        step_length: length of a step, in multiples of `unit`.
        unit: length in scene units; it counts as much as one radian when the nearest photo is chosen.

    Attributes:
        poses: the novel views' poses; each starts at the photo nearest to its target.

    Raises:
        Difix3DError: the step length is not a positive number.
    """

    def __init__(
        self, targets: Cameras, train_poses: Float[Tensor, "num_photos 3 4"], step_length: float, unit: float = 1.0
    ) -> None:
        if not 0 < step_length < float("inf"):
            raise Difix3DError(f"--pipeline.step-length is {step_length}: give a length above 0.")
        self.targets = targets
        self.target_poses: Float[Tensor, "num_views 3 4"] = targets.camera_to_worlds.cpu()
        self.poses: Float[Tensor, "num_views 3 4"] = train_poses[nearest_poses(self.target_poses, train_poses, unit)]
        self._unit = unit
        self._step_length = step_length * unit

    def __len__(self) -> int:
        return len(self.poses)

    def go_on_from(self, poses: Float[Tensor, "num_poses 3 4"]) -> None:
        """Moves the views to where an earlier run left them.

        Poses of a walk to other targets are ignored: a pose that is farther from its target than the nearest photo, and
        all poses if their number differs from that of the targets.
        """
        if len(poses) != len(self.poses):
            return
        ends = self.target_poses[:, :, 3]
        earlier, here = ((ends - start[:, :, 3]).norm(dim=-1) for start in (poses, self.poses))
        self.poses = torch.where((earlier <= here)[:, None, None], poses, self.poses)

    def advance(self) -> None:
        """Moves every view one step towards its target."""
        self.poses = step_towards(self.poses, self.target_poses, self._step_length)

    def cameras(self) -> list[Cameras]:
        """The novel views' cameras, shape (1,) each: the target cameras at the current poses."""
        return [camera_with_pose(self.targets[i : i + 1], pose) for i, pose in enumerate(self.poses)]

    @property
    def num_arrived(self) -> int:
        """How many views have reached their targets."""
        return int((self.poses == self.target_poses).all(dim=-1).all(dim=-1).sum())

    @property
    def num_fixes_to_arrive(self) -> int:
        """How many fixes the farthest view needs from here."""
        return steps_to_arrive(self.poses, self.target_poses, self._step_length)

    def step_length_to_arrive(self, num_fixes: int) -> float:
        """The step length, in the unit of `step_length`, with which all views arrive after `num_fixes` fixes."""
        farthest = (self.target_poses[:, :, 3] - self.poses[:, :, 3]).norm(dim=-1).max()
        return float(farthest) / (max(1, num_fixes) * self._unit)
