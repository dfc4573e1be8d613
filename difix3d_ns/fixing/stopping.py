"""Stops a network between its layers when its result is no longer wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn


class FixStopped(Exception):  # noqa: N818, not an error, like StopIteration
    """Raised to stop a network whose result is no longer wanted."""


@contextmanager
def stoppable(networks: Iterable[nn.Module], stop: Callable[[], bool]) -> Iterator[None]:
    """A context in which every convolution and linear layer calls `stop` before it computes.

    nerfstudio's viewer can interrupt at any line of code. Stopping only at layers leaves caches and weights intact.

    Args:
        networks: networks, not compiled.
        stop: returns whether to stop.

    Raises:
        FixStopped: `stop` returned True.
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
