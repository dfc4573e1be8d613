"""What a run's folder says about how the run was trained.

Runs record these facts in their `start.json`. Runs of other methods and of older versions only have a `config.yml`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, refuse_full_memory

START_NAME = "start.json"
"""File in a run's folder that says what the run started from and how it was trained."""
RECORD_KEY = "this_run"
"""Key of the run's record in that file."""
UNKNOWN_METHOD = "unknown"
OUR_PIPELINES = ("Difix3DPipelineConfig", "Difix3DNerfactoPipelineConfig")


@dataclass(frozen=True)
class RunRecord:
    """The facts about a run that a later run needs when it starts from its checkpoint."""

    method: str = UNKNOWN_METHOD
    """Name of its method, such as `difix3d` or `splatfacto`; `unknown` if the folder does not say."""
    fixes_novel_views: bool = False
    """Whether it fixes novel views."""
    network: str | None = None
    """Name of the network that fixes them, as in `--pipeline.difix.model`; None if unknown."""
    revision: str | None = None
    """Revision of that network; None if it has none."""
    base: str | None = None
    """What an upstream `.pkl` was trained from, as in `--pipeline.difix.base`; None if that is unknown."""


def read_record(run_folder: Path) -> RunRecord:
    """Reads the record of a run; what its folder does not say keeps the default."""
    return _record_in_start(run_folder / START_NAME) or _record_in_config(run_folder / "config.yml")


def _record_in_start(file: Path) -> RunRecord | None:
    """The record that a run saved; None if there is none or it is damaged."""
    try:
        saved = json.loads(file.read_text())[RECORD_KEY]
        # Runs of older versions have recorded no base.
        names = saved["network"], saved["revision"], saved.get("base")
        record = RunRecord(saved["method"], saved["fixes_novel_views"], *names)
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        return None
    is_sound = isinstance(record.method, str) and isinstance(record.fixes_novel_views, bool)
    is_sound = is_sound and all(name is None or isinstance(name, str) for name in names)
    return record if is_sound else None


def settings_in_config(run_folder: Path, *path: str) -> dict[str, Any]:
    """Settings in a run's `config.yml` that are numbers, texts or lists, or objects with such settings.

    Args:
        run_folder: the run's folder.
        path: names of the objects that lead to the settings, such as pipeline and model.

    Returns:
        The settings by name; empty if the file is missing or damaged, or has no such object.
    """
    node = _composed(run_folder / "config.yml")
    for key in path:
        node = _child(node, key)
    found = _plain(node)
    return found if isinstance(found, dict) else {}


def _plain(node: yaml.Node | None) -> Any:
    """The value of a node without the classes that it names, which are not constructed; None if it has none."""
    if isinstance(node, yaml.MappingNode):
        return {name.value: _plain(value) for name, value in node.value if isinstance(name, yaml.ScalarNode)}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value) for value in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith("tag:yaml.org,2002:") and "python" not in node.tag:
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, yaml.YAMLError):  # for example a date that does not exist
            return None
    return None


def _composed(file: Path) -> yaml.Node | None:
    """The nodes of a run's config; None if it is missing or damaged.

    The YAML is composed into nodes but not constructed: constructing runs whatever code the file names.
    """
    try:
        return yaml.compose(file.read_text(encoding="utf8"), Loader=yaml.SafeLoader)
    except (*UNEXPECTED_CONTENT, yaml.YAMLError) as error:
        refuse_full_memory(error)
        return None


def _record_in_config(file: Path) -> RunRecord:
    """Looks the facts up in a run's `config.yml`."""
    config = _composed(file)
    pipeline = _child(config, "pipeline")
    network = _child(pipeline, "difix")
    is_ours = pipeline is not None and pipeline.tag.endswith(OUR_PIPELINES)
    return RunRecord(
        method=_text(config, "method_name") or UNKNOWN_METHOD,
        fixes_novel_views=is_ours and _text(pipeline, "fix_novel_views") != "false",
        network=_text(network, "model"),
        revision=_text(network, "revision"),
        base=_text(network, "base"),
    )


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key; None if the node is no mapping or lacks the key."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _text(node: yaml.Node | None, key: str) -> str | None:
    """The text of a scalar value as it is written in the file; None if there is none or it is null."""
    value = _child(node, key)
    return value.value if isinstance(value, yaml.ScalarNode) and not value.tag.endswith(":null") else None
