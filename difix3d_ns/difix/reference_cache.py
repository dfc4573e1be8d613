"""Keeps the encodings of reference photos, since the same photos are used as references again and again."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

MAX_ENTRIES = 256
"""Number of photos that are kept. At 576 x 1024 pixels, each takes 295 kB in float32."""
WORDS_AT_ONCE = 1 << 18
"""Numbers of an image that `fingerprints` processes at once, which bounds its memory."""

Key = tuple[object, ...]


class ReferenceCache:
    """Least-recently-used cache of the autoencoder's posterior parameters, keyed by image content.

    Two images are the same if they have the same values, size, number format and device, and if the weights of the
    autoencoder have not changed in between. They need not be the same tensor: photos are read again for each fix.

    Args:
        max_entries: number of images that are kept; 0 keeps none.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.max_entries = max_entries
        self._moments: OrderedDict[Key, Tensor] = OrderedDict()

    def clear(self) -> None:
        """Removes all entries."""
        self._moments.clear()

    def keys(self, pictures: Float[Tensor, "batch 3 height width"], autoencoder: nn.Module) -> list[Key]:
        """The keys of images for an autoencoder with its current weights."""
        # In-place changes, for example by an optimizer, increase a parameter's version; inference tensors have none.
        weights = hash(tuple((id(p), 0 if p.is_inference() else p._version) for p in autoencoder.parameters()))
        common = pictures.shape[1:], pictures.dtype, pictures.device, weights
        return [(content, *common) for content in fingerprints(pictures)]

    def get(self, key: Key) -> Float[Tensor, "1 moments h w"] | None:
        """The posterior parameters of an image; None if they are not in the cache."""
        if key in self._moments:
            self._moments.move_to_end(key)
        return self._moments.get(key)

    def put(self, key: Key, moments: Float[Tensor, "1 moments h w"]) -> None:
        """Stores the posterior parameters of one image."""
        self._moments[key] = moments.clone()  # a copy, as the original would keep the whole batch in memory
        while len(self._moments) > self.max_entries:
            self._moments.popitem(last=False)


def fingerprints(pictures: Shaped[Tensor, "batch *rows width"]) -> list[tuple[int, int]]:
    """Two 64-bit numbers for each image, by which images of one shape and number format are told apart.

    They are sums of the image's values, taken as whole numbers of 16 or 32 bits and multiplied by random numbers of 64
    bits, modulo 2^64. The chance that two different images have the same fingerprint is less than 2^-50. It is computed
    where the images are, so that none of them is copied back from a GPU.

    Args:
        pictures: the images, in a number format of 16, 32 or 64 bits.
    """
    words = pictures.detach().contiguous().view(torch.int16 if pictures.element_size() == 2 else torch.int32)
    rows = words.flatten(1, -2)
    _, num_rows, num_words = rows.shape
    generator = torch.Generator().manual_seed(0)
    of_rows, of_words = (
        torch.empty(2, count, dtype=torch.int64).random_(-(2**63), None, generator=generator).to(rows.device)
        for count in (num_rows, num_words)
    )
    total = torch.zeros(len(rows), 2, dtype=torch.int64, device=rows.device)
    at_once = max(1, WORDS_AT_ONCE // (len(rows) * num_words))
    for start in range(0, num_rows, at_once):
        part = slice(start, start + at_once)
        numbers = rows[:, part].long()
        # Products and sums of 64-bit numbers overflow, which is the modulo.
        sums = torch.stack([(numbers * factors).sum(dim=-1) for factors in of_words], dim=1)
        total += (sums * of_rows[:, part]).sum(dim=-1)
    return [(int(first), int(second)) for first, second in total.tolist()]
