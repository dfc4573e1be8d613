"""Decides which Difix network a name refers to. Loads no diffusion library and no weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from difix3d_ns.difix.download import answers

EMBEDDED_MODEL = Path(__file__).parent / "weights" / "difix-mini"
"""The small network that comes with the package."""
AUTO = "auto"
"""Name in a config that leaves the choice of the network to `resolve_difix`."""
EMBEDDED_NAME = "embedded"
"""Name of the small network in a config."""
PUBLISHED_MODEL = "nvidia/difix_ref"
"""The published network, which takes a reference view. No commit is pinned. This is safe because only weights and
settings are downloaded from any revision, are read without running code, and must have the expected keys and shapes."""


@dataclass(frozen=True)
class ResolvedDifix:
    """A network that can be loaded, and the reason it was chosen."""

    name: str
    """Value of `model` in a config that selects the same network again."""
    source: str
    """Folder, file or hub id to pass to `DifixPipeline.from_pretrained`."""
    revision: str | None
    """Revision of a hub id."""
    reason: str
    """One sentence that names the network and says why it was chosen."""


def resolve_difix(model: str, device: torch.device | str, revision: str | None = None) -> ResolvedDifix:
    """Decides which network `model` refers to.

    Args:
        model: `auto`, `embedded`, a hub id, a folder, or a `.pkl` of the authors' training.
        device: the device it will run on; `auto` selects the published network only with CUDA.
        revision: revision of a hub id.
    """
    if model == AUTO:
        if torch.device(device).type != "cuda":
            return embedded_difix(f"as there is no GPU for {PUBLISHED_MODEL}")
        if _cached(PUBLISHED_MODEL, revision):
            return ResolvedDifix(PUBLISHED_MODEL, PUBLISHED_MODEL, revision, f"{PUBLISHED_MODEL} from the local cache.")
        if _hub_reachable():
            return ResolvedDifix(PUBLISHED_MODEL, PUBLISHED_MODEL, revision, f"{PUBLISHED_MODEL}, to be downloaded.")
        return embedded_difix(f"as {PUBLISHED_MODEL} is not cached and cannot be downloaded now")
    if model == EMBEDDED_NAME:
        return embedded_difix("as configured")
    return ResolvedDifix(model, model, revision, f"{model}, as configured.")


def embedded_difix(reason: str) -> ResolvedDifix:
    """Selects the embedded network; `reason` is a clause that ends its sentence, such as "as configured"."""
    return ResolvedDifix(EMBEDDED_NAME, str(EMBEDDED_MODEL), None, f"the embedded small network, {reason}.")


def _cached(model: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    # All weights are looked for, as an interrupted download leaves only some of them.
    weights = ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model")
    return all(isinstance(try_to_load_from_cache(model, f"{w}.safetensors", revision=revision), str) for w in weights)


def _hub_reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    from huggingface_hub.constants import ENDPOINT

    return answers(f"{ENDPOINT}/{PUBLISHED_MODEL}/resolve/main/model_index.json")
