"""Numba kernels beside a debugger, a coverage tool, or nerfstudio's viewer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def untraced(kernel: Callable[P, R]) -> Callable[P, R]:
    """A Numba kernel during whose calls Python's tracing rests.

    nerfstudio's viewer interrupts a render by raising from a trace function. Raised inside Numba's dispatch, which is
    C calling back to Python, the exception turns into a SystemError that ends the viewer's thread.

    Args:
        kernel: a compiled function; kernels that call each other use the inner one.
    """

    @functools.wraps(kernel)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        trace = sys.gettrace()
        if trace is None:
            return kernel(*args, **kwargs)
        sys.settrace(None)
        try:
            return kernel(*args, **kwargs)
        finally:
            sys.settrace(trace)

    return call
