"""The single prompt that Difix is trained and run with, and its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from difix3d_ns.difix.errors import DifixError, first_line, refuse_full_memory
from difix3d_ns.difix.network_files import EMBEDDING_FILE
from difix3d_ns.difix.settings import read_settings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PROMPT = "remove degradation"


def prompt_embedding(folder: Path, source: str) -> Float[Tensor, "1 prompt_tokens width"]:
    """Reads the prompt's embedding from its file or, if there is none, computes it with the folder's text encoder.

    Args:
        folder: the network's folder.
        source: name of the network in error messages.

    Raises:
        DifixError: the embedding or the text encoder cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / EMBEDDING_FILE
    if file.exists():
        try:
            return load_file(file)["prompt_embedding"].float()
        except (OSError, SafetensorError, KeyError) as error:
            raise DifixError(f"{file} cannot be read ({first_line(error)}).") from error
    from transformers import CLIPTextModel, CLIPTokenizer

    read_settings(folder / "text_encoder" / "config.json")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, dtype=torch.float32
        )
        # A tokenizer without a limit reports a huge number as its maximum length.
        num_tokens = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    except Exception as error:  # transformers raises many unrelated types
        refuse_full_memory(error)
        raise DifixError(f"the text encoder of {source} cannot be read ({first_line(error)}).") from error
    tokens = tokenizer(PROMPT, max_length=num_tokens, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        return text_encoder(tokens.input_ids)[0]
