"""Cameras: poses, paths made from them, and files that hold paths."""
