"""Settings of aligned references."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AlignmentConfig:
    """How photos are warped into a render."""

    num_photos: int = 4
    """Most photos that are warped into a render: those that together show most of it from a similar direction."""
    num_hypotheses: int = 7
    """Depths that are tried at each pixel around the rendered one, evenly spaced in inverse depth; 1 keeps it."""
    depth_range: float = 0.12
    """Largest change of the inverse depth, as a fraction of the rendered one."""
    depth_tolerance: float = 0.04
    """Relative difference between a point's depth and the photo's own depth at which the photo hides the point."""
    match_photos: bool = True
    """Whether the photos are matched with each other, once for a scene, and their depths are tried in renders."""
