"""What the models of all methods share: the enhanced output, and metrics of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

Enhancer = Callable[[Float[Tensor, "height width 3"], Cameras, Mapping[str, Any]], Float[Tensor, "height width 3"]]
"""Enhances a render of a camera, given also the other outputs of the render."""


class EnhancedOutputs:
    """A model whose outputs in evaluation include `rgb_enhanced`, which is computed when it is read.

    Attributes:
        enhancer: enhances the render of a camera; set by the pipeline. It is a plain function, not a module, so the
            diffusion network never gets into a checkpoint.
    """

    enhancer: Enhancer | None

    def _lazy_outputs(self, outputs: Mapping[str, Any], camera: Cameras) -> dict[str, Callable[[], Tensor]]:
        """The outputs that are computed when read, from those of a render."""
        enhancer = self.enhancer
        return {} if enhancer is None else {"rgb_enhanced": lambda: enhancer(outputs["rgb"], camera, outputs)}

    def _photo_of(self, outputs: Any, batch: dict[str, Any]) -> Float[Tensor, "height width 3"]:
        """The photo of a batch in [0, 1], composited over the background of the render."""
        raise NotImplementedError

    def _metrics(
        self,
        render: Float[Tensor, "height width 3"],
        photo: Float[Tensor, "height width 3"],
        mask: Bool[Tensor, "height width 1"] | None,
    ) -> dict[str, float]:
        """Metrics of a render against its photo, whose valid pixels `mask` marks."""
        raise NotImplementedError

    def get_enhanced_metrics_and_image(
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], Float[Tensor, "height width 3"]]:
        """Metrics of the enhanced render against its photo, with the suffix `_enhanced`, and the enhanced render."""
        photo = self._photo_of(outputs, batch)
        enhanced = outputs["rgb_enhanced"].to(photo)
        return {
            f"{name}_enhanced": value for name, value in self._metrics(enhanced, photo, batch.get("mask")).items()
        }, enhanced


def pseudo_view_weight(loss_weight: float, reliability: float | Tensor) -> float | Tensor:
    """Weight of a fixed view in the loss, where a photo has 1.

    Args:
        loss_weight: weight for a network of reliability 0.
        reliability: of the network that made the view, in [0, 1]; it raises the weight up to 1.
    """
    return loss_weight + (1 - loss_weight) * reliability
