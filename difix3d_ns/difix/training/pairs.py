"""Pairs for training Difix, in the published JSON layout.

`{"train": {id: {"image", "target_image", "ref_image", "prompt"}}, "test": {...}}`, where `ref_image` may be missing
and paths are absolute or relative to the JSON.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.images import resize, to_image_list


@dataclass(frozen=True)
class Pair:
    """Files of one pair."""

    name: str
    """Its id."""
    image: Path
    """The degraded render."""
    target: Path
    """The photo of the same view."""
    reference: Path | None
    """A photo of a view nearby."""


def read_pairs(path: Path, part: str) -> list[Pair]:
    """The pairs of one part of a pairs JSON.

    Args:
        path: the JSON.
        part: `train` or `test`; a missing part is empty.

    Raises:
        DifixError: the file cannot be read, or an entry lacks its image or target.
    """
    try:
        entries = json.loads(path.read_text()).get(part, {})
        return [
            Pair(
                name=name,
                image=path.parent / entry["image"],
                target=path.parent / entry["target_image"],
                reference=path.parent / entry["ref_image"] if entry.get("ref_image") else None,
            )
            for name, entry in sorted(entries.items())
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise DifixError(f"the pairs {path} cannot be read: {error}.") from error
    except KeyError as error:
        raise DifixError(f"the pairs {path}, part {part}: an entry has no {error}.") from error


def load_pair(pair: Pair) -> Float[Tensor, "views 3 height width"]:
    """Render, photo and, where there is one, reference in [0, 1], all at the photo's size.

    Raises:
        DifixError: a file is no picture.
    """
    files = [pair.image, pair.target] + ([pair.reference] if pair.reference is not None else [])
    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.extend(to_image_list(picture.copy()))
        except (OSError, DifixError) as error:
            raise DifixError(f"the picture {file} of pair {pair.name} cannot be read: {error}.") from error
    height, width = pictures[1].shape[-2:]
    return torch.cat([resize(picture[None], height, width) for picture in pictures])


class PairSampler:
    """Random crops of pairs; which ones a step gets is a function of the seed and the step alone.

    Args:
        pairs: what to draw from. Pictures are read once and kept as bytes.
        crop_size: side of the square crops, in pixels; smaller pictures are cropped to their shorter side.
        seed: of the draws.
        reference_probability: how often a pair's reference is used, so that the network learns to work without.
        clean_probability: how often the photo itself is the input, so that good renders are left alone.
        color_jitter: largest change of gain and offset of each colour channel, the same for all views of a pair; with
            few scenes their colours would be learnt by heart.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        crop_size: int,
        seed: int,
        reference_probability: float = 1.0,
        clean_probability: float = 0.0,
        color_jitter: float = 0.0,
    ) -> None:
        if not pairs:
            raise DifixError("there are no pairs to train on.")
        self.pairs = list(pairs)
        self.crop_size = crop_size
        self.seed = seed
        self.reference_probability = reference_probability
        self.clean_probability = clean_probability
        self.color_jitter = color_jitter
        self._cache: dict[int, Tensor] = {}

    def batch(
        self, step: int, batch_size: int
    ) -> tuple[Float[Tensor, "batch views 3 size size"], Float[Tensor, "batch 3 size size"]]:
        """The batch of a step.

        Returns:
            Inputs in [0, 1], render first, then the reference if this step uses one; and the photos.
        """
        draw = random.Random(f"{self.seed}-{step}")
        indices = [draw.randrange(len(self.pairs)) for _ in range(batch_size)]
        loaded = [self._load(index) for index in indices]
        # All of a batch have a reference or none has: the network takes one number of views at a time.
        with_reference = draw.random() < self.reference_probability and all(len(views) == 3 for views in loaded)
        size = min(self.crop_size, *(side for views in loaded for side in views.shape[-2:])) // 8 * 8
        crops = [self._jitter(self._crop(views, size, draw), draw) for views in loaded]
        inputs = torch.stack([views[[0, 2]] if with_reference else views[:1] for views in crops])
        return inputs, torch.stack([views[1] for views in crops])

    def _load(self, index: int) -> Float[Tensor, "views 3 height width"]:
        if index not in self._cache:
            self._cache[index] = (load_pair(self.pairs[index]) * 255).round().byte()
        return self._cache[index].float() / 255

    @staticmethod
    def _crop(views: Float[Tensor, "views 3 height width"], size: int, draw: random.Random) -> Tensor:
        """One window and one flip for all views: nearby cameras see about the same at the same place."""
        top, left = (draw.randint(0, side - size) for side in views.shape[-2:])
        crop = views[..., top : top + size, left : left + size]
        return crop.flip(-1) if draw.random() < 0.5 else crop

    def _jitter(self, views: Float[Tensor, "views 3 size size"], draw: random.Random) -> Tensor:
        """Other colours for all views alike, and now and then the photo in place of the render."""
        if draw.random() < self.clean_probability:
            views = torch.cat([views[1:2], views[1:]])
        # Half of the examples keep their colours: that of the background is how a network knows a hole.
        if self.color_jitter == 0 or draw.random() < 0.5:
            return views
        gain, offset = (
            torch.tensor([draw.uniform(-self.color_jitter, self.color_jitter) for _ in range(3)])[:, None, None]
            for _ in range(2)
        )
        return (views * (1 + gain) + offset * 0.5).clamp(0, 1)
