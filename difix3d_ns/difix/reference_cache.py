"""Keeps the encodings of reference photos, since the same photos are used as references again and again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_ENTRIES = 256
"""Number of photos that are kept. At 576 x 1024 pixels, each takes 295 kB in float32."""

Key = tuple[object, ...]


class ReferenceCache:
    """Least-recently-used cache of the autoencoder's posterior parameters, keyed by image content.

    Two images are the same if they have the same values, size, number format and device, and if the weights of the
    autoencoder have not changed in between. They need not be the same tensor.

    Args:
        max_entries: number of images that are kept; 0 keeps none.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.max_entries = max_entries
        self._moments: OrderedDict[Key, Tensor] = OrderedDict()

    def clear(self) -> None:
        """Removes all entries."""
        self._moments.clear()

    def key(self, picture: Float[Tensor, "3 height width"], autoencoder: nn.Module) -> Key:
        """The key of an image for an autoencoder with its current weights."""
        values = picture.detach().contiguous().cpu()
        content = hashlib.sha256(values.view(torch.uint8).numpy().data).digest()
        # In-place changes, for example by an optimizer, increase a parameter's version; inference tensors have none.
        weights = tuple((id(p), 0 if p.is_inference() else p._version) for p in autoencoder.parameters())
        return content, picture.shape, picture.dtype, picture.device, hash(weights)

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
