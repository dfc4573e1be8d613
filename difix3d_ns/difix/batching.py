"""Batches of images for the network: images of one size together, with a bound on their pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def batches_of_one_size(
    shapes: Sequence[tuple[int, int]], max_pixels: int, kinds: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Splits images into batches.

    Args:
        shapes: height and width of each image.
        max_pixels: bound on the pixels of a batch. A larger image forms a batch of its own.
        kinds: only images of equal kind share a batch; None if they are all of one kind.

    Returns:
        For each batch the indices of its images. All images of a batch have the same size.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        alike[shape, None if kinds is None else kinds[index]].append(index)
    batches = []
    for indices in alike.values():
        height, width = shapes[indices[0]]
        batch_size = max(1, max_pixels // (height * width))
        batches += [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return batches
