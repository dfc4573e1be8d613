"""Reading the `config.yml` of runs that were trained elsewhere: on another system, or in another folder."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

PATHS_OF_OTHER_SYSTEMS = (
    # Python 3.13 names the classes of paths by pathlib._local, which other versions do not have.
    ("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath")
    if os.name == "nt"
    else ("pathlib.WindowsPath", "pathlib._local.WindowsPath", "pathlib._local.PosixPath")
)
"""Classes of paths in a config that cannot be made here."""


def allow_paths_of_other_systems() -> None:
    """Lets PyYAML read paths that another system or another Python wrote into a run's `config.yml`.

    They become paths of this system. Without this, every command of nerfstudio ends in a traceback for such a run.
    """
    for name in PATHS_OF_OTHER_SYSTEMS:
        yaml.add_constructor(f"tag:yaml.org,2002:python/object/apply:{name}", _path_here, Loader=yaml.Loader)


def _path_here(loader: Any, node: Any) -> Path:
    parts = [str(part) for part in loader.construct_sequence(node)]
    return Path(PureWindowsPath(*parts).as_posix() if "WindowsPath" in node.tag else Path(*parts))


def scene_of_run(config: Any, load_config: Path) -> Path:
    """The scene that a run was trained on.

    A relative path starts from the folder where `ns-train` was run. If nothing is there in the current folder, that
    folder is inferred from the place of the run.

    Args:
        config: the run's `TrainerConfig`.
        load_config: the file that it was read from.
    """
    datamanager = config.pipeline.datamanager
    scene = Path(datamanager.data or datamanager.dataparser.data)
    run_folder = config.get_base_dir()
    if scene.exists() or scene.is_absolute() or run_folder.is_absolute():
        return scene
    depth = len(run_folder.parts)
    for here in (load_config.absolute().parent, load_config.resolve().parent):  # the run's folder may be a link
        from_there = Path(*here.parts[:-depth]) / scene
        if here.parts[-depth:] == run_folder.parts and from_there.exists():
            return from_there
    return scene
