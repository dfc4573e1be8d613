"""Difix3D+ for nerfstudio: Gaussian splatting whose novel views are cleaned by a one-step diffusion model."""
