"""Renders a run of any nerfstudio method and enhances its frames with Difix: `ns-difix render`."""
