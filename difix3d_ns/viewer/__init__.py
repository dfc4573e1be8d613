"""Panels in nerfstudio's viewer."""
