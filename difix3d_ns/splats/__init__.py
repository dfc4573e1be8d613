"""Gaussians: their initialisation and densification, and the outputs of a render."""
