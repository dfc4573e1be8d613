"""Helpers for calling Numba kernels: compilation with a cache, calls that are not traced, and aligned arrays."""

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
P = ParamSpec("P")
R = TypeVar("R")


def cached_njit(**options: Any) -> Callable[[F], F]:
    """`numba.njit(cache=True)`, or without a cache if none can be written.

    Numba writes its cache next to the source file, or else to the user's cache folder or `NUMBA_CACHE_DIR`. If none of
    them is writable, it raises an error when a function is decorated, so that the package could not even be imported.

    Args:
        options: options of `numba.njit`.
    """

    def compile_kernel(function: F) -> F:
        try:
            return njit(cache=True, **options)(function)  # type: ignore[return-value]
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(**options)(function)  # type: ignore[return-value]

    return compile_kernel


def untraced(kernel: Callable[P, R]) -> Callable[P, R]:
    """Wraps a Numba kernel so that Python's tracing is off while it runs.

    nerfstudio's viewer interrupts a render by raising an exception in a trace function. Inside Numba's dispatch, which
    is C code that calls Python, the exception becomes a SystemError that ends the viewer's thread.

    Args:
        kernel: a compiled function. Kernels that call it must use the unwrapped one.
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
    """The tensor's values as a contiguous float32 array, which shares the tensor's memory if possible."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def empty_array(*shape: int) -> np.ndarray:
    """An uninitialised float32 array that is aligned to a cache line, which `np.empty` does not guarantee."""
    return torch.empty(shape, dtype=torch.float32).numpy()
