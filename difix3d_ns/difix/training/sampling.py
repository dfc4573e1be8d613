"""Random crops of pairs. Which ones a training step gets is a function of the seed and the step alone."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.images import resize
from difix3d_ns.difix.training.pairs import Pair, load_pair

Batch = tuple[Float[Tensor, "batch views 3 size size"], Float[Tensor, "batch 3 size size"]]
"""Inputs in [0, 1], render first, then the reference if the step uses one; and the photos."""

CACHE_BYTES = 2 * 1024**3
"""Bound on the pictures that are kept in memory, as bytes."""


class PairSampler:
    """Batches of random crops.

    Args:
        pairs: what to draw from.
        crop_size: side of the square crops, in pixels; smaller pictures are cropped to their shorter side.
        seed: of the draws.
        reference_probability: how often a step's references are used.
        clean_probability: how often the photo itself is the input.
        color_jitter: largest change of gain and offset of each colour channel, the same for all views of a pair.
        min_scale: smallest factor by which pictures are shrunk before they are cropped.
        multiple: the crops' sides are multiples of it.

    Raises:
        DifixError: there are no pairs, or the crops are smaller than `multiple`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        crop_size: int,
        seed: int,
        reference_probability: float = 1.0,
        clean_probability: float = 0.0,
        color_jitter: float = 0.0,
        min_scale: float = 1.0,
        multiple: int = 8,
    ) -> None:
        if not pairs:
            raise DifixError("there are no pairs to train on.")
        if crop_size < multiple:
            raise DifixError(f"crops of {crop_size} pixels are too small: the network needs {multiple} at least.")
        self.pairs = list(pairs)
        self.crop_size = crop_size
        self.seed = seed
        self.reference_probability = reference_probability
        self.clean_probability = clean_probability
        self.color_jitter = color_jitter
        self.min_scale = min_scale
        self.multiple = multiple
        self._cache: dict[int, Tensor] = {}
        self._cached_bytes = 0

    def batch(self, step: int, batch_size: int) -> Batch:
        """The batch of a step.

        Raises:
            DifixError: a picture is missing, broken, or smaller than the network needs.
        """
        draw = random.Random(f"{self.seed}-{step}")
        indices = [draw.randrange(len(self.pairs)) for _ in range(batch_size)]
        loaded = [self._load(index) for index in indices]
        # All of a batch have a reference or none has: the network takes one number of views at a time.
        with_reference = draw.random() < self.reference_probability and all(len(views) == 3 for views in loaded)
        smallest = min(min(views.shape[-2:]) for views in loaded)
        size = min(self.crop_size, smallest) // self.multiple * self.multiple
        if size == 0:
            raise DifixError(f"a picture of {smallest} pixels is too small: the network needs {self.multiple}.")
        examples = [self._augment(self._crop(views, size, draw), draw) for views in loaded]
        inputs = torch.stack([views[[0, 2]] if with_reference else views[:1] for views in examples])
        return inputs, torch.stack([views[1] for views in examples])

    def batches(self, start: int, stop: int, batch_size: int, num_workers: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop`, in order, read ahead in threads."""
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            ahead: deque[Future[Batch]] = deque()
            for step in range(start, stop):
                ahead.append(pool.submit(self.batch, step, batch_size))
                if len(ahead) > num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _load(self, index: int) -> Float[Tensor, "views 3 height width"]:
        if (cached := self._cache.get(index)) is None:
            cached = (load_pair(self.pairs[index]) * 255).round().byte()
            if self._cached_bytes + cached.numel() <= CACHE_BYTES:
                self._cache[index] = cached
                self._cached_bytes += cached.numel()
        return cached.float() / 255

    def _crop(self, views: Float[Tensor, "views 3 height width"], size: int, draw: random.Random) -> Tensor:
        """One window and one flip for all views: cameras nearby see about the same at the same place."""
        scale = draw.uniform(self.min_scale, 1.0)
        window = min(round(size / scale), *views.shape[-2:])
        top, left = (draw.randint(0, side - window) for side in views.shape[-2:])
        crop = resize(views[..., top : top + window, left : left + window], size, size)
        return crop.flip(-1) if draw.random() < 0.5 else crop

    def _augment(self, views: Float[Tensor, "views 3 size size"], draw: random.Random) -> Tensor:
        """Now and then the photo in place of the render, and other colours for all views alike."""
        if draw.random() < self.clean_probability:
            views = torch.cat([views[1:2], views[1:]])
        if self.color_jitter == 0:
            return views
        channels = draw.sample(range(3), 3)
        gain, offset = (
            torch.tensor([draw.uniform(-self.color_jitter, self.color_jitter) for _ in channels])[:, None, None]
            for _ in range(2)
        )
        # Around mid-gray, so that dark and bright pictures change alike; half the offset, as it clips.
        return ((views[:, channels] - 0.5) * (1 + gain) + 0.5 + offset / 2).clamp(0, 1)
