"""From a fixed novel view to one that teaches: it is checked, its colours are matched and its pixels weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView, to_bytes
from difix3d_ns.vetting.color_matching import match_colors
from difix3d_ns.vetting.confidence import ConfidenceConfig, pixel_confidence
from difix3d_ns.vetting.trust import TrustConfig, reasons_to_reject


@dataclass(frozen=True)
class NovelViewFix:
    """One novel view before and after the network; everything on the CPU."""

    camera: Cameras
    """The novel camera, shape (1,)."""
    render: Float[Tensor, "height width 3"]
    """In [0, 1]."""
    accumulation: Float[Tensor, "height width 1"]
    """The render's accumulated opacity, in [0, 1]."""
    fixed: Float[Tensor, "height width 3"]
    """What the network made of the render."""
    reference: int | None
    """Index of the training photo that the network was given; None where none was near enough."""
    distance: float
    """Pose distance to the nearest training photo."""


def vet(
    step: int,
    fixes: Sequence[NovelViewFix],
    trust: TrustConfig,
    confidence: ConfidenceConfig,
    match: bool = True,
    min_accumulation: float = 0.5,
    reliability: float = 0.0,
    first_target: int = 0,
) -> PseudoViewSet:
    """Decides which fixed views teach, and how much.

    Args:
        step: training step before which they were fixed.
        fixes: the novel views, in the order of their targets.
        trust: when a view is rejected.
        confidence: how pixels are weighed.
        match: whether large-scale colours are matched to the render's.
        min_accumulation: pixels whose accumulated opacity is below this do not teach.
        reliability: of the network, in [0, 1] (see `ReliabilityConfig`); the higher, the less a render has to say.
        first_target: index of the first view's target.
    """
    views: list[PseudoView] = []
    rejected: list[RejectedView] = []
    for target, fix in enumerate(fixes, first_target):
        reasons = reasons_to_reject(trust, fix.render, fix.fixed, fix.accumulation, reliability)
        if reasons:
            pictures = to_bytes(fix.fixed), to_bytes(fix.render)
            rejected.append(RejectedView(fix.camera, target, tuple(reasons), *pictures))
            continue
        image = fix.fixed
        if match:
            confident = (fix.accumulation >= trust.confident_accumulation) * fix.accumulation
            image = torch.lerp(match_colors(image, fix.render, confident), image, reliability)
        weight = pixel_confidence(
            confidence, fix.render, image, fix.accumulation, fix.distance, min_accumulation, reliability
        )
        pictures = to_bytes(image), to_bytes(weight)
        views.append(PseudoView(fix.camera, *pictures, fix.reference, target, reliability))
    return PseudoViewSet(step, views, rejected)
