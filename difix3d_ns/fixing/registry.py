"""Finds a fixer by its name: an entry point, or else a Difix network."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import torch

from difix3d_ns.difix.errors import DifixError, reason_of
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.fixing.fixer import DifixConfig, Fixer

FIXER_GROUP = "difix3d_ns.fixers"
"""Entry point group in which packages register fixers."""


def registered_fixer(name: str) -> EntryPoint | None:
    """The entry point of a fixer, or None if no installed package registers one of this name."""
    return next(iter(entry_points(group=FIXER_GROUP, name=name)), None)


def make_fixer(config: DifixConfig, device: torch.device) -> Fixer:
    """Makes the configured fixer. A Difix network is loaded.

    Raises:
        DifixError: there is no usable network, or a registered fixer cannot be made.
    """
    entry_point = registered_fixer(config.model)
    if entry_point is None:
        return DifixFixer(config, device)
    try:
        fixer = entry_point.load()(config, device)
    except DifixError:
        raise
    except Exception as error:  # code of another package can fail in any way
        raise DifixError(
            f"the fixer {config.model} ({entry_point.value}) cannot be made: {reason_of(error)}. Repair the package "
            "that registers it, or choose another --pipeline.difix.model."
        ) from error
    if not callable(getattr(fixer, "clean", None)):
        raise DifixError(
            f"the fixer {config.model} ({entry_point.value}) has no method clean: {type(fixer).__name__} is no fixer. "
            "Repair the package that registers it, or choose another --pipeline.difix.model."
        )
    return fixer
