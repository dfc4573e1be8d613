"""Gaussian splatting behind gsplat's own signature, with CUDA and without."""

from difix3d_ns.rasterization.rendering import rasterization

__all__ = ["rasterization"]
