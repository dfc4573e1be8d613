"""Memory of pictures that are held for long, and of those that were held for a moment."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import torch

from difix3d_ns.pseudo_views import PseudoView


def bytes_held(view: PseudoView) -> int:
    """Memory that a view's pictures take once they are held.

    Pinned memory, which is taken where there is CUDA, comes in powers of two.
    """
    sizes = (view.image.numel(), view.confidence.numel())
    return sum(1 << (size - 1).bit_length() for size in sizes) if torch.cuda.is_available() else sum(sizes)


def to_hold(view: PseudoView) -> PseudoView:
    """The view with its pictures in pinned memory where CUDA can be used, for copies that do not wait."""
    if not torch.cuda.is_available() or view.image.is_pinned():
        return view
    return replace(view, image=view.image.pin_memory(), confidence=view.confidence.pin_memory())


def give_back_freed_memory() -> None:
    """Gives the system what the C library keeps of freed memory.

    Large pictures that come and go leave holes between the ones that stay, and thousands of them add up to gigabytes.
    Where the C library has no such call, nothing is done.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return
