"""Which number format suits a device."""

from __future__ import annotations

import torch

MIN_CAPABILITY = (8, 0)
"""Compute capability from which on GPUs compute with bfloat16. Older ones accept it, but emulate it: attention then
holds the whole matrix of all pairs of tokens in memory, which is larger than the network."""


def best_dtype(device: torch.device | str) -> torch.dtype:
    """The number format for a Difix network: bfloat16 on GPUs that compute with it, otherwise float32.

    Float16 is not used, because the range of some activations exceeds it.
    """
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= MIN_CAPABILITY:
        return torch.bfloat16
    return torch.float32
