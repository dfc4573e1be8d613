"""Draws random crops of pairs. The examples of a training step depend only on the seed and the step.

The examples of a step are numbered from 0, and each is drawn from its own random numbers. Several processes, or one
that accumulates gradients, can therefore divide the examples of a step, and together see one large batch.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.images import resize, resize_with_alpha
from difix3d_ns.difix.training.augmentation import damage, misalign, move_view
from difix3d_ns.difix.training.pairs import Pair, PairReader

Batch = tuple[Float[Tensor, "batch views channels size size"], Float[Tensor, "batch 3 size size"]]
"""Inputs in [0, 1], with the render as view 0 and the reference, if the step uses one, as view 1; and the photos.
Inputs have a fourth channel if the reader reads one."""

CACHE_BYTES = 2 * 1024**3
"""Maximum bytes of decoded images that are kept in memory."""


class PairSampler:
    """Draws batches of random crops.

    Args:
        pairs: pairs to draw from.
        crop_size: side of the square crops, in pixels; smaller images are cropped to their shorter side.
        seed: seed of all draws.
        reference_probability: probability that a step uses references.
        clean_probability: probability that the input is the photo itself.
        color_jitter: largest change of gain and offset of each colour channel, the same for all views of a pair.
        min_scale: smallest factor by which images are downscaled before they are cropped.
        balance_scenes: draw a scene (a folder of photos) first, then one of its pairs.
        balance_seen: first draw whether the splat was trained on the photo.
        damage_probability: probability that the input is damaged further.
        moved_photo_probability: probability that the reference is the photo itself, slightly moved.
        misaligned_probability: probability that the reference is moved and changes its colours.
        multiple: the side of a crop is a multiple of this.
        reader: reads the images; if it skips a pair, another one is drawn.

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
        balance_scenes: bool = False,
        balance_seen: bool = False,
        damage_probability: float = 0.0,
        moved_photo_probability: float = 0.0,
        misaligned_probability: float = 0.0,
        multiple: int = 8,
        reader: PairReader | None = None,
    ) -> None:
        if not pairs:
            raise DifixError("there are no pairs to train on.")
        if crop_size < multiple:
            raise DifixError(f"crops of {crop_size} pixels are too small: the network needs at least {multiple}.")
        self.pairs = list(pairs)
        self.crop_size = crop_size
        self.seed = seed
        self.reference_probability = reference_probability
        self.clean_probability = clean_probability
        self.color_jitter = color_jitter
        self.min_scale = min_scale
        self.damage_probability = damage_probability
        self.moved_photo_probability = moved_photo_probability
        self.misaligned_probability = misaligned_probability
        self.multiple = multiple
        self.reader = reader or PairReader()
        references = [pair.reference is not None for pair in self.pairs]
        self._balance_scenes, self._balance_seen = balance_scenes, balance_seen
        self._all = self._groups(range(len(self.pairs)))
        self._with_reference = self._groups([i for i, has in enumerate(references) if has])
        self._without_reference = self._groups([i for i, has in enumerate(references) if not has])
        self._cache: dict[int, Tensor] = {}
        self._cached_bytes = 0

    def batch(self, step: int, batch_size: int, first: int = 0, stride: int = 1) -> Batch:
        """Draws the batch of a step, or a share of it.

        Args:
            step: training step.
            batch_size: number of examples.
            first: number of the first example.
            stride: distance between the numbers of consecutive examples.

        Raises:
            DifixError: an image is missing, broken or smaller than the network needs, and the reader does not skip it;
                or no pair is left.
        """
        groups, with_reference = self._draw(step)
        drawn = [self._example(step, first + stride * number, groups) for number in range(batch_size)]
        smallest = min(min(views.shape[-2:]) for views, _ in drawn)
        size = min(self.crop_size, smallest) // self.multiple * self.multiple
        examples = [self._augment(self._crop(views, size, draw), draw) for views, draw in drawn]
        inputs = torch.stack([views[[0, 2]] if with_reference else views[:1] for views in examples])
        return inputs, torch.stack([views[1, :3] for views in examples])

    def batches(
        self,
        start: int,
        stop: int,
        batch_size: int,
        num_workers: int,
        parts: int = 1,
        process: int = 0,
        num_processes: int = 1,
    ) -> Iterator[Batch]:
        """Draws the batches of steps `start` to `stop` for one process, in order, reading ahead in threads.

        Args:
            start: first step.
            stop: step after the last.
            batch_size: examples per batch.
            num_workers: number of threads.
            parts: batches per step.
            process: number of this process, which takes every `num_processes`-th example from this number on.
            num_processes: number of processes that share the examples of a step.
        """
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            ahead: deque[Future[Batch]] = deque()
            for step in range(start, stop):
                for part in range(parts):
                    first = process + num_processes * batch_size * part
                    ahead.append(pool.submit(self.batch, step, batch_size, first, num_processes))
                    if len(ahead) > num_workers:
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _groups(self, indices: Iterable[int]) -> list[list[int]]:
        """Groups of pairs that are drawn from equally often: one for all pairs, or one per scene and kind."""
        groups: dict[tuple[Path | None, bool], list[int]] = defaultdict(list)
        for index in indices:
            pair = self.pairs[index]
            groups[pair.target.parent if self._balance_scenes else None, pair.seen and self._balance_seen].append(index)
        return list(groups.values())

    def _draw(self, step: int) -> tuple[list[list[int]], bool]:
        """The groups of pairs that a step draws from, and whether it uses their references.

        Either all examples of a step have a reference or none has, because a batch has one number of views. Over all
        steps, every pair of a group is drawn equally often.
        """
        draw = random.Random(f"{self.seed}-{step}")
        if draw.random() >= self.reference_probability:
            return self._all, False
        if self.pairs[draw.randrange(len(self.pairs))].reference is None:
            return self._without_reference, False
        return self._with_reference, True

    def _example(self, step: int, number: int, groups: list[list[int]]) -> tuple[Tensor, random.Random]:
        """The images of one example, and the generator for its augmentation."""
        draw = random.Random(f"{self.seed}-{step}-{number}")
        views = self._load(draw.choice(draw.choice(groups)))
        if views is None:
            # Drawn at random, as always taking the next pair would make that one twice as frequent.
            candidates = [index for group in groups for index in group]
            others = (self._load(index) for index in draw.sample(candidates, len(candidates)))
            views = next((found for found in others if found is not None), None)
        if views is None:
            raise DifixError(f"none of {sum(map(len, groups))} pairs can be read: see the skipped pairs above.")
        return views, draw

    def _load(self, index: int) -> UInt8[Tensor, "views channels height width"] | None:
        if (cached := self._cache.get(index)) is None:
            if (views := self.reader.read(self.pairs[index], min_side=self.multiple)) is None:
                return None
            cached = (views * 255).round().byte()
            if self._cached_bytes + cached.numel() <= CACHE_BYTES:
                self._cache[index] = cached
                self._cached_bytes += cached.numel()
        return cached

    def _crop(self, views: UInt8[Tensor, "views channels height width"], size: int, draw: random.Random) -> Tensor:
        """Crops and flips all views alike, as nearby cameras see about the same thing at the same pixel."""
        scale = draw.uniform(self.min_scale, 1.0)
        window = min(round(size / scale), *views.shape[-2:])
        top, left = (draw.randint(0, side - window) for side in views.shape[-2:])
        resized = resize_with_alpha if views.shape[1] == 4 else resize
        crop = resized(views[..., top : top + window, left : left + window].float() / 255, size, size)
        return crop.flip(-1) if draw.random() < 0.5 else crop

    def _augment(self, views: Float[Tensor, "views channels size size"], draw: random.Random) -> Tensor:
        """Applies the random augmentations. The change of colours is the same for all views."""
        # No number is drawn without this augmentation, so that other trainings stay as they are.
        if self.misaligned_probability > 0 and len(views) == 3 and draw.random() < self.misaligned_probability:
            views = torch.cat([views[:2], misalign(views[2], draw)[None]])
        return torch.cat([self._augment_colours(views[:, :3], draw), views[:, 3:]], dim=1)

    def _augment_colours(self, views: Float[Tensor, "views 3 size size"], draw: random.Random) -> Tensor:
        if draw.random() < self.clean_probability:
            views = torch.cat([views[1:2], views[1:]])
        if draw.random() < self.damage_probability:
            views = torch.cat([damage(views[0], draw)[None], views[1:]])
        if len(views) == 3 and draw.random() < self.moved_photo_probability:
            views = torch.cat([views[:2], move_view(views[1], draw)[None]])
        if self.color_jitter == 0:
            return views
        channels = draw.sample(range(3), 3)
        gain, offset = (
            torch.tensor([draw.uniform(-self.color_jitter, self.color_jitter) for _ in channels])[:, None, None]
            for _ in range(2)
        )
        # Around mid-gray, so that dark and bright images change alike. The offset is halved, as it clips values.
        return ((views[:, channels] - 0.5) * (1 + gain) + 0.5 + offset / 2).clamp(0, 1)
