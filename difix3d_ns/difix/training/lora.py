"""Low-rank adaptation of the decoder, which is how the published network was trained (arXiv 2503.01774, section 4.1).

The parameters have peft's names, as in the published checkpoints: `M.base_layer.weight`,
`M.lora_A.vae_skip.weight`, `M.lora_B.vae_skip.weight`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.state_dicts import LORA_ALPHA, merge_lora

ADAPTER = "vae_skip"
"""Name of the decoder's LoRA in the published checkpoints."""


class LoraLayer(nn.Module):
    """A convolution or linear layer plus a low-rank change: W x + (alpha / rank) B A x with alpha 8.

    Args:
        base_layer: the layer, which is not copied.
        rank: rank of the change, which starts at zero.
    """

    def __init__(self, base_layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        down: nn.Module
        up: nn.Module
        if isinstance(base_layer, nn.Conv2d):
            down = nn.Conv2d(
                base_layer.in_channels,
                rank,
                kernel_size=base_layer.kernel_size,  # type: ignore[arg-type]
                stride=base_layer.stride,  # type: ignore[arg-type]
                padding=base_layer.padding,  # type: ignore[arg-type]
                bias=False,
            )
            up = nn.Conv2d(rank, base_layer.out_channels, kernel_size=1, bias=False)
        else:
            down = nn.Linear(base_layer.in_features, rank, bias=False)
            up = nn.Linear(rank, base_layer.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({ADAPTER: down})
        self.lora_B = nn.ModuleDict({ADAPTER: up})
        self.scale = LORA_ALPHA / rank

    def forward(self, sample: Float[Tensor, "batch *inner"]) -> Float[Tensor, "batch *outer"]:
        """The output of the layer with its low-rank change."""
        return self.base_layer(sample) + self.scale * self.lora_B[ADAPTER](self.lora_A[ADAPTER](sample))


def add_lora(module: nn.Module, rank: int) -> list[str]:
    """Adds a LoRA to every convolution and linear layer of a module.

    Args:
        module: changed in place; its output does not change, as each LoRA starts at zero.
        rank: rank of the LoRA.

    Returns:
        Names of the layers within `module` that have a LoRA now, sorted.

    Raises:
        DifixError: the rank is below 1.
    """
    if rank < 1:
        raise DifixError(f"the LoRA's rank is {rank}: it must be at least 1.")
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    for name, layer in layers.items():
        module.set_submodule(name, LoraLayer(layer, rank))
    return sorted(layers)


@torch.no_grad()
def fold_lora(module: nn.Module) -> None:
    """Adds every LoRA of a module to the weights of its layer, and removes it, in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            merged = merge_lora({f"layer.{key}": value for key, value in layer.state_dict().items()})
            layer.base_layer.weight.copy_(merged["layer.weight"])
            module.set_submodule(name, layer.base_layer)
