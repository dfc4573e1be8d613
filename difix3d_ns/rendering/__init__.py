"""Rendering any of nerfstudio's runs through Difix: `ns-difix render`."""
