"""What a call of the network refuses: options out of range, and results that are none."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, DifixResultError


def check_options(strength: float, height: int | None, width: int | None, timestep: int, num_timesteps: int) -> None:
    """Looks at the options of `DifixPipeline.__call__`.

    Raises:
        DifixError: one is out of its range.
    """
    if not 0.0 <= strength <= 1.0:
        raise DifixError(f"strength is {strength}: it must lie in [0, 1].")
    if any(side is not None and side < 1 for side in (height, width)):
        raise DifixError(f"the network's size is {height} x {width}: both sides need a pixel at least.")
    if not 0 <= timestep < num_timesteps:
        raise DifixError(f"timestep is {timestep}: it must lie in [0, {num_timesteps}).")


def check_result(
    cleaned: Float[Tensor, "3 height width"], original: Float[Tensor, "3 height width"], dtype: torch.dtype
) -> None:
    """Looks at one cleaned image, as half precision can run out of its range.

    Args:
        cleaned: the network's result, in [0, 1].
        original: what it was made from, in [0, 1].
        dtype: the network's number format.

    Raises:
        DifixResultError: the result holds NaN, or is black where the original is not.
    """
    if not cleaned.isfinite().all():
        raise DifixResultError(f"the network returned NaN in {dtype}: use bfloat16 or float32.")
    if float(cleaned.max()) == 0.0 and float(original.max()) > 0.05:
        raise DifixResultError(f"the network returned a black image in {dtype}: use bfloat16 or float32.")
