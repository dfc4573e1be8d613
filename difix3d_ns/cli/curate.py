"""`ns-difix curate`: pairs for training Difix from nerfstudio scenes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class CurateConfig:
    """Renders pairs for training Difix: splats trained on few photos, against the photos they never saw."""

    scenes: tuple[Path, ...]
    """Scenes to train on: transforms JSON files, or folders with a transforms.json. Where a file lists
    `train_filenames`, these are trained on and all other photos are held out."""
    output_dir: Path
    """Folder for the renders and `pairs.json`. A scene that was finished there earlier is not trained again."""
    test_scenes: tuple[Path, ...] = ()
    """Scenes whose pairs go into the `test` part of `pairs.json`."""
    method: str = "difix3d-mini"
    """Registered method that trains the scenes."""
    snapshot_steps: tuple[int, ...] = field(default=(150, 300, 600))
    """Training steps after which the held-out cameras are rendered: early ones give underfitted renders."""
    every: int = 8
    """Scenes without `train_filenames` are trained on every so many-th photo."""
    seed: int = 42
    """Seed of every training."""


def curate(config: CurateConfig) -> None:
    """Trains every scene in turn and writes `pairs.json` after each."""
    from difix3d_ns.curation import curate_scene, scene_to_curate

    pairs: dict[str, dict[str, dict[str, str]]] = {"train": {}, "test": {}}
    for part, paths in (("train", config.scenes), ("test", config.test_scenes)):
        for path in paths:
            scene = scene_to_curate(path, config.every)
            finished = config.output_dir / scene.name / "pairs.json"
            if not finished.exists():
                found = curate_scene(scene, config.output_dir, config.method, config.snapshot_steps, config.seed)
                _write_json(finished, found)
            pairs[part].update(json.loads(finished.read_text()))
            _write_json(config.output_dir / "pairs.json", pairs)


def _write_json(path: Path, content: dict) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.replace(path)
