"""Checks of the settings of vetting."""

from __future__ import annotations

import math

from difix3d_ns.errors import require_in_range
from difix3d_ns.options import option_name
from difix3d_ns.vetting.vet import VettingConfig


def require_valid_vetting(config: VettingConfig, prefix: str) -> None:
    """Makes sure that a setting outside its range does not reject all views, or none, without a word.

    Args:
        config: the settings.
        prefix: of the options on the command line.

    Raises:
        Difix3DError: a setting is outside its range.
    """
    trust, confidence, reliability = config.trust, config.confidence, config.reliability
    for name, value, low, high in (
        ("min_accumulation", config.min_accumulation, 0, 1),
        ("trust.confident_accumulation", trust.confident_accumulation, 0, 1),
        ("trust.max_color_shift", trust.max_color_shift, 0, math.inf),
        ("trust.min_structure", trust.min_structure, -1, 1),
        ("trust.max_block_jump", trust.max_block_jump, 0, math.inf),
        ("confidence.disagreement", confidence.disagreement, 0, math.inf),
        ("confidence.half_distance", confidence.half_distance, 0, math.inf),
        ("reliability.num_photos", reliability.num_photos, 1, math.inf),
        ("reliability.needed_for_early_fixes", reliability.needed_for_early_fixes, 0, math.inf),
    ):
        require_in_range(option_name(prefix, name), value, low, high)
