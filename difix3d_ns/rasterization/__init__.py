"""Gaussian rasterization with gsplat's signature, with or without CUDA."""

from difix3d_ns.rasterization.harmonics import MAX_DEGREE
from difix3d_ns.rasterization.rendering import rasterization

__all__ = ["MAX_DEGREE", "rasterization"]
