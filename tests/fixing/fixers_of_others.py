"""Fixers like those that other packages may register."""

from __future__ import annotations

import torch


class Darker:
    """Halves each render."""

    def __init__(self, config, device) -> None:
        self.config, self.device = config, device

    def clean(self, renders, references, cameras):
        return [render / 2 for render in renders]


class Cropping(Darker):
    """Returns images of another size."""

    def clean(self, renders, references, cameras):
        return [render[1:] for render in renders]


class Forgetful(Darker):
    """Returns fewer images than it was given."""

    def clean(self, renders, references, cameras):
        return renders[1:]


class Unlucky(Darker):
    """Cannot be made."""

    def __init__(self, config, device) -> None:
        raise OSError("its weights are missing")


class Shuffling(Darker):
    """Has parameters and does not think of gradients."""

    def __init__(self, config, device) -> None:
        super().__init__(config, device)
        self.network = torch.nn.Linear(3, 3).to(device)
        torch.nn.init.eye_(self.network.weight)
        torch.nn.init.zeros_(self.network.bias)

    def clean(self, renders, references, cameras):
        return [self.network(render) for render in renders]


class Bytes(Darker):
    """Returns values in [0, 255]."""

    def clean(self, renders, references, cameras):
        return [255 * render for render in renders]


class Symmetric(Darker):
    """Returns values in [-1, 1]."""

    def clean(self, renders, references, cameras):
        return [2 * render - 1 for render in renders]


class Sharpening(Darker):
    """Misses [0, 1] by a little."""

    def clean(self, renders, references, cameras):
        return [1.1 * render - 0.05 for render in renders]


class Arrays(Darker):
    """Returns arrays instead of tensors."""

    def clean(self, renders, references, cameras):
        return [render.numpy() for render in renders]


class Nothing(Darker):
    """Works in place and returns nothing."""

    def clean(self, renders, references, cameras):
        return None


class Cleanerless:
    """Has no method `clean`."""

    def __init__(self, config, device) -> None:
        pass
