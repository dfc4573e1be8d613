"""The ranges of the settings of vetting."""

from __future__ import annotations

import pytest

from difix3d_ns.errors import Difix3DError
from difix3d_ns.vetting.confidence import ConfidenceConfig
from difix3d_ns.vetting.reliability import ReliabilityConfig
from difix3d_ns.vetting.trust import TrustConfig
from difix3d_ns.vetting.valid_settings import require_valid_vetting
from difix3d_ns.vetting.vet import VettingConfig


def test_the_defaults_and_the_ends_of_ranges_are_valid() -> None:
    require_valid_vetting(VettingConfig(), "--pipeline.")
    ends = VettingConfig(
        min_accumulation=0,
        trust=TrustConfig(confident_accumulation=1, max_color_shift=0, min_structure=-1, max_block_jump=9),
        confidence=ConfidenceConfig(disagreement=0, half_distance=0),
        reliability=ReliabilityConfig(num_photos=1, needed_for_early_fixes=0),
    )
    require_valid_vetting(ends, "--pipeline.")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (VettingConfig(min_accumulation=1.5), r"--pipeline\.min-accumulation must be from 0 to 1, not 1\.5\."),
        (VettingConfig(min_accumulation=float("nan")), r"min-accumulation must be from 0 to 1, not nan"),
        (VettingConfig(trust=TrustConfig(min_structure=60)), r"trust\.min-structure must be from -1 to 1, not 60"),
        (VettingConfig(trust=TrustConfig(max_color_shift=-0.1)), r"trust\.max-color-shift must be 0 or more"),
        (VettingConfig(confidence=ConfidenceConfig(disagreement=-1)), r"confidence\.disagreement must be 0 or more"),
        (VettingConfig(confidence=ConfidenceConfig(half_distance=-1)), r"confidence\.half-distance must be 0 or more"),
        (VettingConfig(reliability=ReliabilityConfig(num_photos=0)), r"reliability\.num-photos must be 1 or more"),
    ],
)
def test_a_setting_outside_its_range_is_named(config: VettingConfig, sentence: str) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        require_valid_vetting(config, "--pipeline.")
