"""Settings of the points from which the training of a splat starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StartPointsConfig:
    """Where the first Gaussians are placed when training begins from nothing."""

    source: Literal["auto", "scene", "stereo"] = "auto"
    """`scene`: the scene's own points, or random ones if it has fewer than four. `stereo`: also points that are matched
    between the photos, and points that fill what does not match. `auto`: `stereo` if the scene has fewer than four
    points, otherwise its own points; with up to 12 photos (or `few_photos` `yes`), also points where one photo alone
    shows the plane that the scene's points lie on, such as the ground below a drone."""
    num_points: int = 10_000
    """About how many points `stereo` places, the scene's own included."""

    def uses_stereo(self, num_scene_points: int) -> bool:
        """Whether points are matched between the photos of a scene with so many points of its own."""
        return self.source == "stereo" or (self.source == "auto" and num_scene_points < 4)
