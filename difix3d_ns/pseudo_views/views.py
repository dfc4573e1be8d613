"""Pseudo views: novel views, rendered and cleaned, that training draws besides photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

PSEUDO_VIEW_FOLDER = "pseudo_views"
"""Folder of the fixed views inside a run's folder."""


class DrawableView(Protocol):
    """A view that teaches, in memory or on disk."""

    @property
    def camera(self) -> Cameras:
        """The novel camera, shape (1,), on the CPU."""
        ...

    @property
    def target(self) -> int:
        """Index of the target that this view walks to."""
        ...

    @property
    def mean_confidence(self) -> float:
        """Mean of the confidence of its pixels, in [0, 1]."""
        ...

    def load(self) -> PseudoView:
        """The view with its pictures."""
        ...


@dataclass(frozen=True)
class PseudoView:
    """One novel view, rendered and cleaned."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    image: UInt8[Tensor, "height width 3"]
    """The cleaned render."""
    confidence: UInt8[Tensor, "height width 1"]
    """How much each pixel counts in training: 255 is fully, 0 not at all."""
    reference: int | None
    """Index of the training photo that Difix was given; None where none was near enough."""
    target: int
    """Index of the target that this view walks to."""
    reliability: float = 0.0
    """How reliable the network was when it made this view, in [0, 1]."""

    def load(self) -> PseudoView:
        """The view itself."""
        return self

    @property
    def mean_confidence(self) -> float:
        """Mean of `confidence`, in [0, 1]."""
        return float(self.confidence.sum(dtype=torch.int64)) / self.confidence.numel() / 255


@dataclass(frozen=True)
class RejectedView:
    """A novel view whose fix is not trusted: its pose counts for the walk, its picture does not teach."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    target: int
    """Index of the target that this view walks to."""
    reasons: tuple[str, ...]
    """Why, in a few words each."""
    fixed: UInt8[Tensor, "height width 3"] | None = None
    """What the network made; None once it is in the run's folder."""
    render: UInt8[Tensor, "height width 3"] | None = None
    """What it was made from; None once it is in the run's folder."""


@dataclass(frozen=True)
class PseudoViewSet:
    """What one fix made."""

    step: int
    """Training step before which it was made."""
    views: Sequence[DrawableView]
    """Views that teach."""
    rejected: Sequence[RejectedView] = ()
    """Views that do not."""

    def camera_to_worlds(self) -> Float[Tensor, "num_views 3 4"]:
        """Poses of all views in the order of their targets: how far each walk has come."""
        cameras = {view.target: view.camera for view in (*self.views, *self.rejected)}
        return torch.cat([torch.empty(0, 3, 4), *(cameras[target].camera_to_worlds for target in sorted(cameras))])


def to_bytes(image: Float[Tensor, "height width channels"]) -> UInt8[Tensor, "height width channels"]:
    """An image in [0, 1] as eight-bit values; NaN becomes 0."""
    return (image.nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
