"""State dicts: merges LoRA, renames the keys of older files, and loads weights into a module."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError, abbreviated

LORA_ALPHA = 8
"""peft's default, which the authors did not change. With their rank of 4, the LoRA has a factor of 2."""
LORA_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<half>A|B)(?:\.[^.]+)?\.weight$")
"""Matches the key of one of the two factors of a module's LoRA."""

StateDict = dict[str, Tensor]

_WRAPPER_PREFIX = re.compile(r"^(?:base_model\.model\.|_orig_mod\.|module\.)+")
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def merge_lora(state: StateDict) -> StateDict:
    """Adds each LoRA to the weight it belongs to: W' = W + (alpha / rank) B A, with alpha 8.

    Args:
        state: weights with peft's keys `M.base_layer.weight`, `M.lora_A.NAME.weight` and `M.lora_B.NAME.weight`; the
            base weight may also be called `M.weight`. Weights without LoRA are returned unchanged.

    Raises:
        DifixError: a factor of a LoRA or its base weight is missing, or their shapes do not fit.
    """
    merged = {key.replace(".base_layer.", "."): value for key, value in state.items() if not LORA_KEY.match(key)}
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := LORA_KEY.match(key):
            halves.setdefault(match["module"], {})[match["half"]] = value
    for module, half in halves.items():
        weight = merged.get(f"{module}.weight")
        if set(half) != {"A", "B"} or weight is None:
            raise DifixError(f"the LoRA of {module} is incomplete: lora_A, lora_B and a base weight are needed.")
        if any(tensor.dim() < 2 or tensor.numel() == 0 for tensor in (half["A"], half["B"], weight)):
            raise DifixError(f"the LoRA of {module} does not fit its weight of shape {tuple(weight.shape)}.")
        down, up = half["A"].float().flatten(1), half["B"].float().flatten(1)
        rank = len(down)
        if up.shape != (len(weight), rank) or down[0].numel() != weight[0].numel():
            raise DifixError(f"the LoRA of {module} does not fit its weight of shape {tuple(weight.shape)}.")
        product = (up @ down).reshape(weight.shape)
        merged[f"{module}.weight"] = weight.float() + (LORA_ALPHA / rank) * product
    return merged


def without_prefix(state: StateDict) -> StateDict:
    """Removes the prefixes that older peft, torch.compile and distributed training put before the keys."""
    return {_WRAPPER_PREFIX.sub("", key): value for key, value in state.items()}


def with_current_names(state: StateDict) -> StateDict:
    """Renames attention layers that older files call query, key, value and proj_attn to their current names."""

    def current(key: str) -> str:
        parts = key.split(".")
        return ".".join(_OLD_ATTENTION_NAMES.get(part, part) for part in parts)

    renamed = {current(key): value for key, value in state.items() if ".attentions." in key}
    # In older files, the attention weights are 1x1 convolutions.
    renamed = {
        key: value.squeeze() if value.dim() == 4 and "lora" not in key else value for key, value in renamed.items()
    }
    return {**{key: value for key, value in state.items() if ".attentions." not in key}, **renamed}


def load_strictly(module: nn.Module, state: StateDict, name: str, dtype: torch.dtype) -> None:
    """Loads weights into a module on the meta device.

    Args:
        module: on the device `meta`; changed in place.
        state: the weights.
        name: name of the weights in error messages.
        dtype: number format of the loaded weights.

    Raises:
        DifixError: a key is missing or unknown, or a shape differs.
    """
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    problems = [f"{what} {abbreviated(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    misshapen = [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems += [abbreviated(misshapen)] if misshapen else []
    if problems:
        raise DifixError(f"the weights of {name} are not those of a Difix network: {'; '.join(problems)}.")
    # Copied, because the tensors of a memory-mapped file would change or vanish with the file.
    module.load_state_dict({key: value.to(dtype, copy=True) for key, value in state.items()}, assign=True)
