"""Panels of the package in nerfstudio's viewer."""
