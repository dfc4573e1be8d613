"""Numba compilation that is kept between processes where a folder for it can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

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
