"""Cameras: pose mathematics, generated camera paths, and camera path files."""
