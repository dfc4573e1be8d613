"""Settings of the network on a command line: the given ones replace those of a run, and are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from difix3d_ns.errors import Difix3DError, require_in_range
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.fixing.registry import registered_fixer
from difix3d_ns.options import option_name

IDENTITY = "identity"
OVERLAP_SETTINGS = ("num_candidates", "min_overlap")
"""Settings of references that only the choice `overlap` uses."""


def difix_with(own: DifixConfig, given: Mapping[str, Any]) -> DifixConfig:
    """A run's settings of the network, replaced by the given ones.

    Another network does not inherit the revision and the base of the run's own.
    """
    if given.get("model", own.model) != own.model:
        own = replace(own, revision=None, base=None)
    return replace(own, **given)


def require_valid_difix(config: DifixConfig, prefix: str) -> None:
    """Raises Difix3DError if a setting of the network is invalid; `prefix` is that of the options."""
    require_in_range(f"{prefix}strength", config.strength, 0, 1)
    require_in_range(f"{prefix}max-pixels-per-batch", config.max_pixels_per_batch, 1)


def require_valid_references(config: ReferenceConfig, prefix: str) -> None:
    """Raises Difix3DError if a setting of the references is invalid; `prefix` is that of the options."""
    require_in_range(f"{prefix}num-candidates", config.num_candidates, 1)
    require_in_range(f"{prefix}min-overlap", config.min_overlap, 0, 1)
    require_in_range(f"{prefix}max-distance", config.max_distance, 0)


def require_used_difix(fixer: LazyFixer, given: Mapping[str, Any], prefix: str = "--difix.") -> None:
    """Makes sure that the settings of a network are valid, and that each given one has an effect.

    Args:
        fixer: has all settings, given or not.
        given: the given settings, by field name.
        prefix: of the options on the command line.

    Raises:
        Difix3DError: a setting is invalid, or a given one has no effect.
    """
    config = fixer.config
    require_valid_difix(config, prefix)
    if config.model == IDENTITY:
        for name in given.keys() - {"model", "max_pixels_per_batch"}:
            raise Difix3DError(
                f"{option_name(prefix, name)} has no effect with the network identity, which returns renders "
                "unchanged: leave it out."
            )
    if not given.keys() & {"revision", "base"} or registered_fixer(config.model) is not None:
        return
    network = fixer.resolve()
    is_checkpoint = network.name.endswith(".pkl")
    if "base" in given and not is_checkpoint:
        raise Difix3DError(f"{prefix}base is only for a network in a .pkl file, not for {network.name}: leave it out.")
    source = config.base if is_checkpoint else network.source
    if "revision" in given and source is not None and Path(source).exists():
        raise Difix3DError(
            f"{prefix}revision is only for files from the hub, not for {source if is_checkpoint else network.name}: "
            f"leave it out, or give a hub id as {prefix}{'base' if is_checkpoint else 'model'}."
        )


def require_used_references(
    config: ReferenceConfig, given: Mapping[str, Any], use_reference: bool, prefix: str = "--references."
) -> None:
    """Makes sure that the settings of reference photos are valid, and that each given one has an effect.

    Args:
        config: all settings, given or not.
        given: the given settings, by field name.
        use_reference: whether the network gets references at all.
        prefix: of the options on the command line.

    Raises:
        Difix3DError: a setting is invalid, or a given one has no effect.
    """
    require_valid_references(config, prefix)
    for name in given:
        if not use_reference:
            raise Difix3DError(
                f"{option_name(prefix, name)} has no effect without references: leave it out, or add "
                "--difix.use-reference True."
            )
        if name in OVERLAP_SETTINGS and config.choice != "overlap":
            raise Difix3DError(
                f"{option_name(prefix, name)} has an effect only if references are chosen by overlap: add "
                f"{prefix}choice overlap, or leave it out."
            )
