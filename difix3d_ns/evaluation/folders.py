"""Views from folders of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from difix3d_ns.evaluation.picture_folders import matched, pictures_in, read_picture, require_one_size
from difix3d_ns.evaluation.views import ENHANCED, PHOTO, RAW, Frame, View

SMALLEST_SIDE = 32
"""Width and height in pixels from which on SSIM and LPIPS can be computed."""


class FolderSource:
    """Renders, photos and optional enhanced renders, each from a folder.

    Args:
        renders: folder of renders.
        photos: folder of photos.
        enhanced: folder of enhanced renders, or None.

    Raises:
        Difix3DError: a folder is missing or empty, or the images do not fit together.
    """

    num_frames = 0

    def __init__(self, renders: Path, photos: Path, enhanced: Path | None) -> None:
        folders = {RAW: renders, ENHANCED: enhanced, PHOTO: photos}
        words = {RAW: "renders", ENHANCED: "enhanced renders", PHOTO: "photos"}
        found = {words[kind]: pictures_in(path, words[kind]) for kind, path in folders.items() if path is not None}
        by_word, how = matched(found)
        kinds = {word: kind for kind, word in words.items()}
        self._files = {name: {kinds[word]: file for word, file in files.items()} for name, files in by_word.items()}
        # The sizes are in the files' headers, so a mismatch is found before anything is measured.
        for name, files in by_word.items():
            require_one_size(name, files, SMALLEST_SIDE)
        self.title = f"{renders.resolve().name} against {photos.resolve().name}"
        self.facts = {word: str(folders[kinds[word]]) for word in found} | {"pictures": how}
        self.num_views = len(self._files)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def views(self) -> Iterator[View]:
        """The views, in the order of the renders."""
        for name, files in self._files.items():
            yield View(name, {kind: read_picture(file).to(self._device) for kind, file in files.items()}, files)

    def frames(self) -> Iterator[Frame]:
        """Yields nothing: folders contain neither cameras nor depth."""
        yield from ()
