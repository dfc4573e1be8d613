"""Gaussians: where they start, how many there are, and what a render of them returns."""
