"""What is evaluated: views, each with a photo, a render of the same camera and perhaps the render enhanced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from difix3d_ns.videos.flicker import FrameGeometry

RAW, ENHANCED, PHOTO = KINDS = ("raw", "enhanced", "photo")
"""What a view's images are called: in files, on the page and in `metrics.json`."""


@dataclass(frozen=True)
class View:
    """One view's images, all of one size."""

    name: str
    """Path in its folder without suffix; no two views have the same."""
    images: Mapping[str, Float[Tensor, "height width 3"]]
    """`raw`, `photo` and perhaps `enhanced`, in [0, 1]."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """The files that the images were read from, if they were."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video along a camera path."""

    images: Mapping[str, Float[Tensor, "height width 3"]]
    """`raw` and perhaps `enhanced`, in [0, 1]."""
    geometry: FrameGeometry
    """Of its camera and the splat."""


class Source(Protocol):
    """Where views come from."""

    title: str
    """What is evaluated, for the page's head."""
    facts: dict[str, str]
    """What else is to be known about it, by short names."""
    num_views: int
    """How many views `views` gives."""
    num_frames: int
    """How many frames `frames` gives; 0 where flicker cannot be measured or is not asked for."""

    def views(self) -> Iterator[View]:
        """The views, one after the other."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Frames along a camera path, one after the other."""
        ...
