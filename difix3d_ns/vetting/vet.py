"""Turns fixed novel views into pseudo views: rejects some, matches colours and weighs each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView, to_bytes
from difix3d_ns.vetting.color_matching import match_colors
from difix3d_ns.vetting.confidence import ConfidenceConfig, pixel_confidence
from difix3d_ns.vetting.reliability import ReliabilityConfig
from difix3d_ns.vetting.trust import TrustConfig, reasons_to_reject


@dataclass
class VettingConfig:
    """Which fixed novel views training uses, and how much each pixel counts."""

    min_accumulation: float = 0.5
    """Pixels of a novel view whose accumulated opacity is below this value, in [0, 1], do not teach."""
    match_colors: bool = True
    """Whether the large-scale colours of a fixed view are matched to its render where the render is confident.
    Otherwise the network's shifts of brightness add up from fix to fix."""
    trust: TrustConfig = field(default_factory=TrustConfig)
    """When a fixed view is rejected."""
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    """How much each pixel of a fixed view counts."""
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    """How the network is tested at training photos, and what the result changes."""


@dataclass(frozen=True)
class NovelViewFix:
    """One novel view before and after the network, all on one device."""

    camera: Cameras
    """The novel camera, shape (1,), on the CPU."""
    render: Float[Tensor, "height width 3"]
    """The render, in [0, 1]."""
    accumulation: Float[Tensor, "height width 1"]
    """The render's accumulated opacity, in [0, 1]."""
    fixed: Float[Tensor, "height width 3"]
    """The network's output for the render, or the render itself."""
    reference: int | None
    """Index of the training photo that the network was given; None if none was near enough."""
    distance: float
    """Pose distance to the nearest training photo."""
    cleaned: bool = True
    """Whether the network was used."""

    def on(self, device: torch.device) -> NovelViewFix:
        """The view with its images on a device."""
        images = {name: getattr(self, name).to(device) for name in ("render", "accumulation", "fixed")}
        return replace(self, **images)


@dataclass(frozen=True)
class Vetting:
    """Decides which fixed views teach, and how much."""

    config: VettingConfig

    def vet(
        self,
        fixes: Sequence[NovelViewFix],
        step: int,
        reliability: float,
        first_target: int,
        device: torch.device | None = None,
    ) -> PseudoViewSet:
        """Vets some views of one fix.

        Args:
            fixes: the novel views, in the order of their targets.
            step: training step before which they were fixed.
            reliability: of the network, in [0, 1]; the higher, the less a view is checked against its render.
            first_target: index of the first view's target.
            device: where the images are compared, one view at a time; None for the device that they are on.

        Returns:
            The views, in CPU memory.
        """
        views: list[PseudoView] = []
        rejected: list[RejectedView] = []
        for target, found in enumerate(fixes, first_target):
            fix = found if device is None else found.on(device)
            reasons = reasons_to_reject(
                self.config.trust, fix.render, fix.fixed, fix.accumulation, reliability=reliability
            )
            if reasons:
                images = (to_bytes(image).cpu() for image in (fix.fixed, fix.render))
                rejected.append(RejectedView(fix.camera, target, tuple(reasons), *images))
            else:
                views.append(self._pseudo_view(fix, target, reliability))
        return PseudoViewSet(step, views, rejected)

    def _pseudo_view(self, fix: NovelViewFix, target: int, reliability: float) -> PseudoView:
        image = fix.fixed
        if self.config.match_colors:
            confident = (fix.accumulation >= self.config.trust.confident_accumulation) * fix.accumulation
            image = torch.lerp(match_colors(image, fix.render, confident), image, reliability)
        weight = pixel_confidence(
            self.config.confidence,
            fix.render,
            image,
            fix.accumulation,
            fix.distance,
            min_accumulation=self.config.min_accumulation,
            reliability=reliability,
        )
        # Eight-bit values take a quarter of the time to copy from a GPU.
        image, weight = (to_bytes(values).cpu() for values in (image, weight))
        return PseudoView(fix.camera, image, weight, fix.reference, target, reliability, fix.cleaned)
