"""What a run's folder says about the run: in its start.json, otherwise in its config.yml."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods

from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.resuming.run_record import RECORD_KEY, START_NAME, RunRecord, read_record
from difix3d_ns.resuming.starts import Start

NETWORK = "nvidia/difix_ref"


def save_config(folder: Path, method: str, revision: str | None = None, fixes: bool = True) -> None:
    config = deepcopy(all_methods[method])
    if method != "splatfacto":
        config.pipeline.difix = DifixConfig(model=NETWORK, revision=revision)
        config.pipeline.fix_novel_views = fixes
    (folder / "config.yml").write_text(yaml.dump(config))


@pytest.mark.parametrize("revision", ["0" * 40, "1e" + "1" * 38, "v1", None])
def test_a_run_without_a_record_is_described_by_its_config(tmp_path: Path, revision: str | None) -> None:
    save_config(tmp_path, "difix3d-mini", revision)
    expected = RunRecord("difix3d-mini", fixes_novel_views=True, network=NETWORK, revision=revision)
    assert read_record(tmp_path) == expected
    # Runs of older versions have a start.json without a record.
    (tmp_path / START_NAME).write_text(json.dumps({"step": 0, "origin": 0, "run_folder": None, "method": ""}))
    assert read_record(tmp_path) == expected


def test_a_run_that_fixes_no_novel_views_says_so(tmp_path: Path) -> None:
    save_config(tmp_path, "difix3d", fixes=False)
    assert not read_record(tmp_path).fixes_novel_views
    save_config(tmp_path, "splatfacto")
    assert read_record(tmp_path) == RunRecord("splatfacto")


@pytest.mark.parametrize(
    "record",
    [
        RunRecord("difix3d", True, NETWORK, "0" * 40),
        RunRecord("difix3d-mini", False, "embedded", None),
        RunRecord("difix3d", True, "difix.pkl", None, "stabilityai/sd-turbo"),
    ],
)
def test_a_saved_record_counts_more_than_the_config(tmp_path: Path, record: RunRecord) -> None:
    save_config(tmp_path, "splatfacto")
    Start(0, 10, None, None, origin=0).save(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    "damage", [{"revision": 1}, {"method": None}, {"fixes_novel_views": "false"}, {"network": []}, {"base": 3}]
)
def test_a_damaged_record_is_passed_over(tmp_path: Path, damage: dict) -> None:
    save_config(tmp_path, "difix3d", "v1")
    Start(0, 10, None, None, origin=0).save(tmp_path, RunRecord("difix3d-mini", False, "embedded", None))
    saved = json.loads((tmp_path / START_NAME).read_text())
    saved[RECORD_KEY].update(damage)
    (tmp_path / START_NAME).write_text(json.dumps(saved))
    assert read_record(tmp_path) == RunRecord("difix3d", True, NETWORK, "v1")


@pytest.mark.parametrize("config", [None, "", "[1, 2]", "pipeline: 3", "a: [", "? [1]\n: 2\n", "method_name: null"])
def test_a_folder_that_says_nothing_leaves_the_method_unknown(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.yml").write_text(config)
    assert read_record(tmp_path) == RunRecord()


def test_the_record_of_an_older_version_has_no_base(tmp_path: Path) -> None:
    Start(0, 10, None, None, origin=0).save(tmp_path, RunRecord("difix3d", True, NETWORK, "v1", "other"))
    saved = json.loads((tmp_path / START_NAME).read_text())
    del saved[RECORD_KEY]["base"]
    (tmp_path / START_NAME).write_text(json.dumps(saved))
    assert read_record(tmp_path) == RunRecord("difix3d", True, NETWORK, "v1")
