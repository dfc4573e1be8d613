"""The Difix network: images in, cleaned images out. Imports neither nerfstudio nor gsplat."""
