"""Writes the pseudo views of a fix part by part, so that they need not all be in memory at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from difix3d_ns.pseudo_views.files import (
    INDEX_NAME,
    REJECTED_FOLDER,
    StoredView,
    camera_entry,
    put_in_place,
    rejected_images,
    saved_sets,
    set_name,
    unfinished_folder,
)
from difix3d_ns.pseudo_views.views import PseudoView, RejectedView

COMPRESS_LEVEL = 1
"""Compression level of zlib. It is four times faster than Pillow's default, and the files are hardly larger."""
MAX_THREADS = 8
"""Largest number of views that are written at the same time."""


class SetWriter:
    """Writes one set part by part. The set appears in its folder, complete, when it is finished.

    Args:
        folder: the run's folder of pseudo views.
        step: training step before which its views are fixed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._name = set_name(step)
        self._step = step
        self._unfinished: Path | None = None
        self._views: list[dict] = []
        self._rejected: list[dict] = []

    def write(self, views: Sequence[PseudoView], rejected: Sequence[RejectedView] = ()) -> list[StoredView]:
        """Writes a part of the set.

        Returns:
            The views that teach, at the place of their files once the set is finished.

        Raises:
            OSError: the files cannot be written, for example because the disk is full.
        """
        if self._unfinished is None:
            self._unfinished = unfinished_folder(self._folder / self._name)
        folder = self._unfinished
        with ThreadPoolExecutor(min(MAX_THREADS, torch.get_num_threads())) as threads:
            entries = list(threads.map(lambda view: _write_view(folder, view), views))
            self._rejected += threads.map(self._write_rejected, rejected)
        self._views += entries
        return [
            StoredView(
                camera=view.camera,
                folder=self._folder / self._name,
                image_name=entry["image"],
                confidence_name=entry["confidence"],
                reference=view.reference,
                target=view.target,
                reliability=view.reliability,
                mean_confidence=entry["mean_confidence"],
                cleaned=view.cleaned,
            )
            for view, entry in zip(views, entries, strict=True)
        ]

    def finish(self, sets_kept: int, is_needed: Callable[[Path], bool] = lambda saved: False) -> None:
        """Moves the set to its place and removes the sets that are too old and those of later steps.

        Sets of later steps are left over when a run resumes from an earlier checkpoint.

        Args:
            sets_kept: number of sets that stay, including this one.
            is_needed: whether an older set stays nevertheless.

        Raises:
            OSError: the set cannot be written.
        """
        self.write([])  # makes the folder of a set without views
        assert self._unfinished is not None
        index = {"step": self._step, "views": self._views, "rejected": self._rejected}
        (self._unfinished / INDEX_NAME).write_text(json.dumps(index, indent=1))
        put_in_place(self._unfinished, self._folder / self._name)
        saved = saved_sets(self._folder)
        later = [other for other in saved if other.name > self._name]
        outdated = [other for other in saved if other.name <= self._name][:-sets_kept]
        for other in (*later, *(other for other in outdated if not is_needed(other))):
            shutil.rmtree(other)
            for image in rejected_images(self._folder, other.name):
                image.unlink()

    def discard(self) -> None:
        """Removes everything that was written."""
        if self._unfinished is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            for image in rejected_images(self._folder, self._name):
                image.unlink()

    def _write_rejected(self, view: RejectedView) -> dict:
        entry: dict = {"target": view.target, "reasons": list(view.reasons), **camera_entry(view.camera)}
        folder = self._folder / REJECTED_FOLDER
        folder.mkdir(exist_ok=True)
        for name, image in (("render", view.render), ("fixed", view.fixed)):
            if image is not None:
                file = folder / f"{self._name}-view-{view.target:04d}-{name}.png"
                Image.fromarray(image.numpy()).save(file, compress_level=COMPRESS_LEVEL)
                entry[name] = f"../{REJECTED_FOLDER}/{file.name}"
        return entry


def _write_view(folder: Path, view: PseudoView) -> dict:
    image_name, confidence_name = (f"view-{view.target:04d}{suffix}.png" for suffix in ("", "-confidence"))
    Image.fromarray(view.image.numpy()).save(folder / image_name, compress_level=COMPRESS_LEVEL)
    confidence = Image.fromarray(view.confidence[..., 0].numpy())
    confidence.save(folder / confidence_name, compress_level=COMPRESS_LEVEL)
    return {
        "image": image_name,
        "confidence": confidence_name,
        "mean_confidence": round(view.mean_confidence, 4),
        "reference": view.reference,
        "target": view.target,
        "reliability": view.reliability,
        "cleaned": view.cleaned,
        **camera_entry(view.camera),
    }
