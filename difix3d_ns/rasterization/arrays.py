"""Tensors as the arrays that Numba kernels take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values as a contiguous float32 array, sharing memory where it can."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def empty_array(*shape: int) -> np.ndarray:
    """A float32 array that begins where a cache line does, which NumPy's own do not, with any values."""
    return torch.empty(shape, dtype=torch.float32).numpy()
