"""The Difix network, which takes images and returns cleaned images. Imports neither nerfstudio nor gsplat."""
