"""Difix3D on nerfacto: the model, rays of photos and fixed views, how well renders are known, and starts."""
