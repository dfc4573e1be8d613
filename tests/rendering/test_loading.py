"""The network that a finished run is loaded with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.rendering.loading import RunOptions, load_run

COMMIT = "3" * 40


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (DifixConfig(strength=0.5), DifixConfig("a/b", COMMIT, strength=0.5)),
        (DifixConfig("a/b"), DifixConfig("a/b", COMMIT)),
        (DifixConfig("a/b", "v1"), DifixConfig("a/b", "v1")),
        (DifixConfig("c/d"), DifixConfig("c/d", None)),
    ],
)
def test_the_commit_of_a_run_applies_only_to_its_own_network(
    difix3d_run: Path, given: DifixConfig, expected: DifixConfig
) -> None:
    settings = yaml.load(difix3d_run.read_text(), Loader=yaml.Loader)
    settings.pipeline.difix = DifixConfig("a/b", COMMIT)
    difix3d_run.write_text(yaml.dump(settings))
    assert load_run(difix3d_run, RunOptions(given, ReferenceConfig())).enhancer.fixer.config == expected
