"""Fixers like those that other packages may register."""

from __future__ import annotations


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
