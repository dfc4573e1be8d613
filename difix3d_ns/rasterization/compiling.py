"""Numba compilation that is kept between processes where a folder for it can be written."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def cached_njit(**options: Any) -> Callable[[F], F]:
    """`numba.njit(cache=True)`, or without the cache where none can be kept.

    Numba keeps it beside the source, else in the user's cache folder or in `NUMBA_CACHE_DIR`. Where it can write to
    none of them it raises when a function is decorated, so the package could not even be imported.

    Args:
        options: passed on to `numba.njit`.
    """

    def compile_kernel(function: F) -> F:
        try:
            return njit(cache=True, **options)(function)  # type: ignore[return-value]
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(**options)(function)  # type: ignore[return-value]

    return compile_kernel


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


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values as a contiguous float32 array, sharing memory where it can."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def empty_array(*shape: int) -> np.ndarray:
    """A float32 array that begins where a cache line does, which NumPy's own do not, with any values."""
    return torch.empty(shape, dtype=torch.float32).numpy()
