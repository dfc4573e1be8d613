"""Reading nerfstudio's checkpoints with a current torch."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch


def allow_nerfstudio_checkpoints() -> None:
    """Lets `torch.load` read NumPy scalars, which nerfstudio's schedulers leave in its checkpoints.

    Since torch 2.6 only listed types are unpickled; without this `ns-eval` and a resume end in an UnpicklingError.
    The types listed here hold plain numbers and run nothing.
    """
    scalar = cast(Any, np.float64(0).__reduce__()[0])
    torch.serialization.add_safe_globals([scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))])
