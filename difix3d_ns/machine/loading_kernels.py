"""Loads gsplat's CUDA kernels, before the first render needs them."""

from __future__ import annotations

import re

import torch

from difix3d_ns.difix.errors import first_line, is_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.machine.starting import ON_CPU

COMPILE = 'python -c "from gsplat.cuda._backend import _C"'
"""The command that compiles and loads the kernels."""


def load_gsplat_kernels(device: torch.device | str) -> None:
    """Loads gsplat's kernels if a model is to render on a GPU. If they are not built yet, this compiles them.

    gsplat itself loads them in the first render. That may be one of the viewer's, which interrupts renders with an
    exception: it would stop the compiler half-way and leave half-imported modules.

    Args:
        device: where the model renders.

    Raises:
        Difix3DError: the kernels cannot be compiled or loaded.
    """
    if torch.device(device).type != "cuda":
        return
    try:
        from gsplat.cuda._backend import _C  # pyright: ignore[reportAttributeAccessIssue]  set as it is imported
        from gsplat.rendering import rasterization  # noqa: F401  imports all that a render needs
    except Exception as error:  # compilers and linkers can fail in any way
        if is_full_memory(error):
            raise
        raise Difix3DError(
            f"gsplat's CUDA kernels cannot be compiled or loaded ({_reason(error)}): the command {COMPILE} shows all "
            f"messages of the compiler, and .docs/gpu.md says what it needs; {ON_CPU}."
        ) from error
    if _C is None:
        raise Difix3DError(
            "gsplat has no CUDA kernels and finds no nvcc to compile them: ns-difix check says what is missing; "
            f"{ON_CPU}."
        )


def _reason(error: Exception) -> str:
    """The compiler's first error in the message of torch, which quotes everything that was printed."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if re.search(r"\berror\b.*:", line)), first_line(error)).rstrip(".")
