"""Pseudo views: fixed novel views that training draws in addition to photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

PSEUDO_VIEW_FOLDER = "pseudo_views"
"""Name of the folder, in a run's folder, that holds its pseudo views."""


class DrawableView(Protocol):
    """A pseudo view in memory or on disk."""

    @property
    def camera(self) -> Cameras:
        """The novel camera, shape (1,), on the CPU."""
        ...

    @property
    def target(self) -> int:
        """Index of the target that this view moves to."""
        ...

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of its pixels, in [0, 1]."""
        ...

    @property
    def cleaned(self) -> bool:
        """Whether the fixer made its image."""
        ...

    def load(self) -> PseudoView:
        """Returns the view with its images."""
        ...


@dataclass(frozen=True)
class PseudoView:
    """A fixed novel view that teaches."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    image: UInt8[Tensor, "height width 3"]
    """The fixed view, or the render itself."""
    confidence: UInt8[Tensor, "height width 1"]
    """How much each pixel counts in training, from 0 (not at all) to 255 (fully)."""
    reference: int | None
    """Index of the training photo that the network was given; None if none was near enough."""
    target: int
    """Index of the target that this view moves to."""
    reliability: float
    """Reliability of the network when it made this view, in [0, 1]."""
    cleaned: bool = True
    """Whether the fixer made the image. Otherwise it is the render itself."""

    def load(self) -> PseudoView:
        """Returns the view itself."""
        return self

    @property
    def mean_confidence(self) -> float:
        """Mean of `confidence`, in [0, 1]."""
        return float(self.confidence.sum(dtype=torch.int64)) / self.confidence.numel() / 255


@dataclass(frozen=True)
class RejectedView:
    """A novel view that does not teach. Its pose still shows how far it has moved."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    target: int
    """Index of the target that this view moves to."""
    reasons: tuple[str, ...]
    """Why it was rejected; one phrase for each reason."""
    fixed: UInt8[Tensor, "height width 3"] | None = None
    """The network's output; None in a set that the bank holds."""
    render: UInt8[Tensor, "height width 3"] | None = None
    """The render that was fixed; None in a set that the bank holds."""


@dataclass(frozen=True)
class PseudoViewSet:
    """The views of one fix."""

    step: int
    """Training step before which they were fixed."""
    views: Sequence[DrawableView]
    """Views that teach."""
    rejected: Sequence[RejectedView] = ()
    """Views that do not."""

    def camera_to_worlds(self) -> Float[Tensor, "num_views 3 4"]:
        """Poses of all views, of rejected ones too, in the order of their targets."""
        cameras = {view.target: view.camera for view in (*self.views, *self.rejected)}
        return torch.cat([torch.empty(0, 3, 4), *(cameras[target].camera_to_worlds for target in sorted(cameras))])


def to_bytes(image: Float[Tensor, "height width channels"]) -> UInt8[Tensor, "height width channels"]:
    """Converts an image in [0, 1] to eight-bit values. NaN becomes 0."""
    return (image.nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
