"""Reads pairs for training Difix from the published JSON layout.

The layout is `{"train": {id: {"image", "target_image", "ref_image", "prompt"}}, "test": {...}}`. `ref_image` is
optional, and paths are absolute or relative to the JSON. Difix has only one prompt, so `prompt` is not read.

An aligned reference is a picture with alpha, which says how far each pixel is to be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from difix3d_ns.difix.errors import DifixError, reason_of
from difix3d_ns.difix.images import UNREADABLE_PICTURE, resize, resize_with_alpha, to_image_list, with_alpha


@dataclass(frozen=True)
class Pair:
    """The files of one pair."""

    name: str
    """Id of the pair."""
    image: Path
    """The degraded render."""
    target: Path
    """The photo of the same view."""
    reference: Path | None
    """A photo of a nearby view."""
    seen: bool = False
    """Whether the splat was trained on the photo; False if the JSON does not say."""


def read_pairs(path: Path, part: Literal["train", "test"]) -> list[Pair]:
    """Reads one part of a pairs JSON, sorted by id.

    Args:
        path: the JSON.
        part: the part to read; a missing part is empty.

    Raises:
        DifixError: the file cannot be read or has another layout, or an entry lacks its image or target.
    """
    try:
        entries = json.loads(path.read_text()).get(part, {})
        return [_pair(name, entry, path.parent) for name, entry in sorted(entries.items())]
    except (OSError, ValueError) as error:
        raise DifixError(f"the pairs {path} cannot be read: {reason_of(error)}.") from error
    except KeyError as error:
        raise DifixError(f"the pairs {path}, part {part}: an entry has no {error}.") from error
    except (AttributeError, TypeError) as error:
        raise DifixError(
            f'the pairs {path} are not laid out as {{"train": {{id: {{...}}}}}}: {reason_of(error)}.'
        ) from error


def _pair(name: str, entry: dict[str, Any], folder: Path) -> Pair:
    reference, how = entry.get("ref_image"), entry.get("how")
    return Pair(
        name=name,
        image=folder / entry["image"],
        target=folder / entry["target_image"],
        reference=folder / reference if reference else None,
        seen=isinstance(how, dict) and how.get("trained_on_this_photo") is True,
    )


def load_pair(pair: Pair, with_trust: bool = False) -> Float[Tensor, "views channels height width"]:
    """Loads the render, the photo and, if there is one, the reference in [0, 1], all resized to the photo's size.

    Args:
        pair: the pair.
        with_trust: whether to load a fourth channel: the reference's alpha, which is 0 if it has none, and 1 elsewhere.

    Raises:
        DifixError: a file is missing or not an image.
    """
    files = [pair.image, pair.target] + ([pair.reference] if pair.reference is not None else [])
    pictures: list[Tensor] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.extend(to_image_list(picture, keep_alpha=with_trust and file == pair.reference))
        except (*UNREADABLE_PICTURE, DifixError) as error:
            raise DifixError(f"the image {file} of pair {pair.name} cannot be read: {reason_of(error)}.") from error
    height, width = pictures[1].shape[-2:]
    if not with_trust:
        return torch.cat([resize(picture[None], height, width) for picture in pictures])
    trusted = [with_alpha(picture[None], 0.0 if view == 2 else 1.0) for view, picture in enumerate(pictures)]
    return torch.cat([resize_with_alpha(each, height, width) for each in trusted])


def require_trust(pairs: Sequence[Pair], path: Path) -> None:
    """Raises DifixError if no reference has alpha, so that a network for aligned references would learn nothing.

    Args:
        pairs: the pairs to train on.
        path: the JSON that lists them.
    """
    for pair in pairs:
        try:
            with Image.open(pair.reference or pair.image) as picture:
                if pair.reference is not None and picture.mode == "RGBA":
                    return
        except UNREADABLE_PICTURE:  # reported where the pair is read
            continue
    raise DifixError(
        f"{path} has no reference with alpha, which a network for aligned references needs: make the pairs anew with "
        "ns-difix curate and aligned references, or choose another architecture."
    )


class PairReader:
    """Reads pairs, and can skip those that cannot be read. It prints each skipped pair once.

    Args:
        skip_bad: whether to skip a pair that cannot be read instead of raising an error.
        with_trust: see `load_pair`.
    """

    def __init__(self, skip_bad: bool = False, with_trust: bool = False) -> None:
        self.skip_bad = skip_bad
        self.with_trust = with_trust
        self.skipped: set[Pair] = set()
        self._lock = Lock()

    def read(self, pair: Pair, min_side: int = 1) -> Float[Tensor, "views channels height width"] | None:
        """Reads a pair as `load_pair` does; None if the pair is skipped.

        Args:
            pair: the pair.
            min_side: smallest usable side, in pixels.

        Raises:
            DifixError: a file is missing, not an image or too small, and `skip_bad` is off.
        """
        if pair in self.skipped:
            return None
        try:
            views = load_pair(pair, self.with_trust)
            if (smallest := min(views.shape[-2:])) < min_side:
                raise DifixError(
                    f"the image {pair.target} of pair {pair.name} has a side of {smallest} pixels: the network needs "
                    f"at least {min_side}."
                )
        except DifixError as error:
            if not self.skip_bad:
                raise
            with self._lock:
                is_new = pair not in self.skipped
                self.skipped.add(pair)
            if is_new:
                tqdm.write(f"Skipped: {error}")
            return None
        return views
