"""Pseudo views as eight-bit values."""

from __future__ import annotations

import torch

from difix3d_ns.pseudo_views.views import to_bytes


def test_values_become_bytes_and_nan_becomes_black() -> None:
    values = torch.tensor([[[0.0, 0.5, 1.0], [-1.0, 2.0, float("nan")]]])
    assert to_bytes(values).tolist() == [[[0, 128, 255], [0, 255, 0]]]
