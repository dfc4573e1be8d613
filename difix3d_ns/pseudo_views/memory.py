"""The CPU memory that the images of pseudo views take."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import replace

from difix3d_ns.pseudo_views.banked_views import BankedSet, BankedView
from difix3d_ns.pseudo_views.views import PseudoView

NOT_SAVED = "not saved"
"""Reason for the rejection of a view that fits neither on disk nor into memory."""


class ImageMemory:
    """The memory for the images of banked views. It is never exceeded.

    Args:
        max_bytes: its size.
        pinned: whether it is pinned, so that copies to a GPU are asynchronous. This needs a CUDA context.
    """

    def __init__(self, max_bytes: float, pinned: bool = False) -> None:
        self._max_bytes = max_bytes
        self._pinned = pinned
        self.bytes_held = 0
        """Memory in use."""

    def hold(self, view: BankedView, images: PseudoView, evictable: Sequence[BankedSet]) -> bool:
        """Keeps a view's images in memory if they fit, and evicts older ones for them if necessary.

        Args:
            view: the view, whose images are not in memory yet.
            images: the view with its images.
            evictable: sets whose images may be evicted, newest first. The oldest set's images go first.

        Returns:
            Whether the images are in memory now.
        """
        size = bytes_held(images, self._pinned)
        limit = self._max_bytes - size
        for older in reversed(evictable):
            for other in older.views:
                if self.bytes_held > limit and other.held is not None:
                    # A view that is not on disk is evicted only for another view that is not on disk.
                    if other.stored is not None:
                        self.release([other])
                    elif view.stored is None:
                        self.release([other])
                        older.reject(other, NOT_SAVED)
        if self.bytes_held > limit:
            return False
        view.held = pinned(images) if self._pinned else images
        self.bytes_held += size
        return True

    def release(self, views: Iterable[BankedView]) -> None:
        """Frees the memory of some views."""
        for view in views:
            if view.held is not None:
                self.bytes_held -= bytes_held(view.held, self._pinned)
                view.held = None


def bytes_held(view: PseudoView, pinned: bool = False) -> int:
    """Memory in bytes that a view's images take. Pinned memory is allocated in powers of two."""
    sizes = (view.image.numel(), view.confidence.numel())
    return sum(1 << (size - 1).bit_length() for size in sizes) if pinned else sum(sizes)


def pinned(view: PseudoView) -> PseudoView:
    """Copies a view's images into pinned memory, unless they are there."""
    if view.image.is_pinned():
        return view
    return replace(view, image=view.image.pin_memory(), confidence=view.confidence.pin_memory())


def give_back_freed_memory() -> None:
    """Returns memory that the C library keeps after it was freed to the operating system.

    Large images that are freed leave holes between those that are kept. Over thousands of images the holes add up to
    gigabytes. This does nothing if the C library has no `malloc_trim`.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return
