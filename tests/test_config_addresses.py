"""Addresses of the classes that a run's `config.yml` names: a run must load as long as it exists."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods

from difix3d_ns.config import difix3d, difix3d_mini, difix3d_nerfacto

OLD_RUN = Path(__file__).parent / "runs" / "banana" / "difix3d-mini" / "before_the_folders"
"""A run made when the config classes were in modules at the root of the package."""

ADDRESSES = {
    "datamanager.Difix3DDataManager",
    "datamanager.Difix3DDataManagerConfig",
    "fixing.fixer.DifixConfig",
    "fixing.references.ReferenceConfig",
    "model.Difix3DModel",
    "model.Difix3DModelConfig",
    "novel_views.targets.TargetConfig",
    "pipeline.Difix3DPipeline",
    "pipeline.Difix3DPipelineConfig",
    "pseudo_views.bank.PseudoViewBankConfig",
    "stereo.config.StartPointsConfig",
    "trainer.Difix3DTrainer",
    "trainer.Difix3DTrainerConfig",
    "vetting.confidence.ConfidenceConfig",
    "vetting.reliability.ReliabilityConfig",
    "vetting.trust.TrustConfig",
}
"""Where the classes are. Runs name them, so one may only move if it also stays importable from here."""


@pytest.mark.parametrize("method", [difix3d, difix3d_mini], ids=lambda method: method.config.method_name)
def test_the_classes_of_a_config_stay_at_their_addresses(method) -> None:
    named = set(re.findall(r"difix3d_ns\.([\w.]+)", yaml.dump(method.config)))
    assert named == ADDRESSES


OF_NERFACTO = {
    "fixing.fixer.DifixConfig",
    "nerfacto.datamanager.Difix3DNerfactoDataManager",
    "nerfacto.datamanager.Difix3DNerfactoDataManagerConfig",
    "nerfacto.model.Difix3DNerfactoModel",
    "nerfacto.model.Difix3DNerfactoModelConfig",
    "nerfacto.pipeline.Difix3DNerfactoPipeline",
    "nerfacto.pipeline.Difix3DNerfactoPipelineConfig",
    "nerfacto.pipeline.NearestReferenceConfig",
    "nerfacto.trainer.Difix3DNerfactoTrainer",
    "nerfacto.trainer.Difix3DNerfactoTrainerConfig",
    "novel_views.targets.TargetConfig",
    "pseudo_views.bank.PseudoViewBankConfig",
    "vetting.confidence.ConfidenceConfig",
    "vetting.reliability.ReliabilityConfig",
    "vetting.trust.TrustConfig",
}
"""The same for `difix3d-nerfacto`."""


def test_the_classes_of_the_config_on_nerfacto_stay_at_their_addresses() -> None:
    assert set(re.findall(r"difix3d_ns\.([\w.]+)", yaml.dump(difix3d_nerfacto.config))) == OF_NERFACTO


def test_a_run_made_before_the_classes_moved_gives_todays_config() -> None:
    text = (OLD_RUN / "config.yml").read_text()
    assert "difix3d_ns.fixer.DifixConfig" in text and "difix3d_ns.trust.TrustConfig" in text
    old = yaml.load(text, Loader=yaml.Loader)
    _require_same_classes(old, all_methods["difix3d-mini"], "config")
    assert old.pipeline.fix_steps == (20, 40) and old.pipeline.difix.model == "embedded"


def _require_same_classes(old: object, new: object, where: str) -> None:
    assert type(old) is type(new), where
    if is_dataclass(new) and not isinstance(new, type):
        for field in fields(new):
            if field.init and is_dataclass(getattr(new, field.name)):
                _require_same_classes(getattr(old, field.name), getattr(new, field.name), f"{where}.{field.name}")
