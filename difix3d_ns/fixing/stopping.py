"""Stopping a network between its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn


class FixStopped(Exception):  # noqa: N818, as StopIteration: no error
    """Nobody wants the result any more."""


@contextmanager
def stoppable(networks: Iterable[nn.Module], stop: Callable[[], bool]) -> Iterator[None]:
    """A context in which the networks' convolutions and linear layers ask, before they compute, whether to go on.

    Asking at layers, not at any line of code as nerfstudio's viewer does, leaves caches and weights whole.

    Args:
        networks: networks that are not compiled.
        stop: whether to stop; called many times.

    Raises:
        FixStopped: `stop` said so.
    """

    def ask(*_: object) -> None:
        if stop():
            raise FixStopped

    layers = [layer for part in networks for layer in part.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
