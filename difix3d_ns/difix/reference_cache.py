"""What the autoencoder made of reference photos, kept while the same photos serve again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_ENTRIES = 256
"""Photos that are remembered; at 576 x 1024 each takes 295 kB in float32."""

Key = tuple[object, ...]


class ReferenceCache:
    """Posteriors' parameters by the content of their pictures; the least recently used are forgotten.

    A picture counts as the same if it holds the same values at the same size, number format and device, for an
    autoencoder whose weights have not changed; who asks need not keep the tensor.

    Args:
        max_entries: how many are remembered; 0 remembers none.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.max_entries = max_entries
        self._moments: OrderedDict[Key, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._moments)

    def clear(self) -> None:
        """Forgets all."""
        self._moments.clear()

    def key(self, picture: Float[Tensor, "3 height width"], autoencoder: nn.Module) -> Key:
        """What tells this picture, as this autoencoder sees it, from all others."""
        values = picture.detach().contiguous().cpu()
        content = hashlib.sha256(values.view(torch.uint8).numpy().data).digest()
        # In-place changes, as by an optimizer, raise a parameter's version; tensors of inference mode have none.
        weights = tuple((id(p), 0 if p.is_inference() else p._version) for p in autoencoder.parameters())
        return content, picture.shape, picture.dtype, picture.device, hash(weights)

    def get(self, key: Key) -> Float[Tensor, "1 moments h w"] | None:
        """The posterior's parameters, if they are remembered."""
        if key in self._moments:
            self._moments.move_to_end(key)
        return self._moments.get(key)

    def put(self, key: Key, moments: Float[Tensor, "1 moments h w"]) -> None:
        """Remembers the posterior of one picture."""
        self._moments[key] = moments.clone()  # not the batch that it is a part of
        while len(self._moments) > self.max_entries:
            self._moments.popitem(last=False)
