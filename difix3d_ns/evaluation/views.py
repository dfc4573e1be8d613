"""The data that is evaluated: views, each with a photo, its render and optionally the enhanced render."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.videos.flicker import FrameGeometry

RAW, ENHANCED, PHOTO = KINDS = ("raw", "enhanced", "photo")
"""The kinds of a view's images, as named in files, on the page and in `metrics.json`."""


@dataclass(frozen=True)
class View:
    """The images of one view, all of one size and on the device where they are measured."""

    name: str
    """Path in its folder without extension; unique among the views."""
    images: Mapping[str, Float[Tensor, "height width 3"]]
    """`raw`, `photo` and optionally `enhanced`, in [0, 1]."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """The files of the images that were read from files, by kind."""
    mask: Bool[Tensor, "height width 1"] | None = None
    """The photo's valid pixels, which alone are measured; None if all are."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video along a camera path, on the device where it is measured."""

    images: Mapping[str, Float[Tensor, "height width 3"]]
    """`raw` and optionally `enhanced`, in [0, 1]."""
    geometry: FrameGeometry
    """The frame's camera, and the depth of its render."""


class Source(Protocol):
    """Provides the views and frames of an evaluation."""

    title: str
    """Name of what is evaluated, the heading of the page."""
    facts: dict[str, str]
    """Further facts to show, by short names."""
    num_views: int
    """Number of views that `views` yields."""
    num_frames: int
    """Number of frames that `frames` yields; 0 if flicker cannot or shall not be measured."""

    def views(self) -> Iterator[View]:
        """Yields the views."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yields the frames along a camera path, in order."""
        ...
