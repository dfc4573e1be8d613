"""`ns-difix curate` with all strategies on a rig of two distorted cameras, with two processes and with one."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import run
from PIL import Image

from difix3d_ns.difix.training.pairs import load_pair, read_pairs

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana"
PAIRS_OF = {"sparse": 5, "cycle": 8, "underfit": 24, "cross-reference": 4}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The banana scene as a rig of two distorted cameras; the images of one have an alpha channel."""
    folder = tmp_path_factory.mktemp("rig")
    transforms = json.loads((BANANA / "transforms.json").read_text())
    for index, frame in enumerate(transforms["frames"]):
        camera, suffix = ("left", "jpg") if index % 2 else ("right", "png")
        photo = Path(camera) / f"{index // 2:04d}.{suffix}"
        (folder / camera).mkdir(exist_ok=True)
        with Image.open(BANANA / frame["file_path"]) as picture:
            picture.convert("RGB" if suffix == "jpg" else "RGBA").save(folder / photo)
        frame["file_path"] = str(photo)
    for part in ("train", "val", "test"):
        del transforms[f"{part}_filenames"]
    transforms.update(k1=0.1, k2=0.02)
    (folder / "transforms.json").write_text(json.dumps(transforms))
    shutil.copy(BANANA / "sparse_pc.ply", folder)
    return folder


def options(rig: Path, output_dir: Path) -> list[object]:
    sizes = ["--num-iterations", 40, "--image-scale", 0.25, "--every", 3]
    return ["--scenes", rig, "--output-dir", output_dir, *sizes, "--strategies", *PAIRS_OF]


@pytest.fixture(scope="module")
def curated(rig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a curation by two processes."""
    output_dir = tmp_path_factory.mktemp("pairs")
    # accelerate needs `--multi_gpu` for several processes, even without a GPU.
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", 2, "-m", "difix3d_ns.cli.curate"]
    printed = run(*launch, *options(rig, output_dir))
    assert "Jobs (one strategy on one scene each) to run by 2 processes: 4." in printed
    return output_dir


def test_two_processes_make_the_pairs_of_all_strategies(curated: Path, rig: Path) -> None:
    pairs = json.loads((curated / "pairs.json").read_text())["train"]
    assert Counter(entry["how"]["strategy"] for entry in pairs.values()) == PAIRS_OF
    assert {entry["how"]["step"] for entry in pairs.values() if entry["how"]["strategy"] == "underfit"} == {10, 20, 30}
    assert {path.name for path in (curated / rig.name).iterdir()} == {*PAIRS_OF, "contact_sheet.png"}


def test_each_render_shows_its_photos_view_at_its_size(curated: Path) -> None:
    loaded = {pair.name: (pair, load_pair(pair).numpy()) for pair in read_pairs(curated / "pairs.json", "train")}
    for pair, _ in loaded.values():
        with Image.open(pair.image) as render, Image.open(pair.target) as photo:
            assert render.size == photo.size
        assert pair.reference is not None and pair.reference.name != pair.target.name
    for strategy in ("sparse", "cycle", "cross-reference"):
        pictures = [views for name, (_, views) in loaded.items() if f"-{strategy}-" in name]
        renders, photos = (np.stack([views[part].ravel() for views in pictures]) for part in (0, 1))
        alike = np.corrcoef(renders, photos)[: len(renders), len(renders) :]
        assert alike.diagonal().mean() > 0.1 + alike[~np.eye(len(alike), dtype=bool)].mean(), strategy


def test_only_what_is_missing_is_made_again_and_a_missing_scene_loses_no_pairs(
    curated: Path, rig: Path, tmp_path: Path
) -> None:
    output_dir = Path(shutil.copytree(curated, tmp_path / "pairs"))
    shutil.rmtree(output_dir / rig.name / "sparse")
    (output_dir / "pairs.json").unlink()
    arguments = options(rig, output_dir)
    arguments[1:2] = [tmp_path / "nowhere", rig]
    printed = run("ns-difix", "curate", *arguments, expect=1)
    assert "to run: 1." in printed and "Finished earlier: 3 " in printed
    assert "Traceback" not in printed
    assert printed.count("difix3d: 1 of 5 failed") == 1 and "nowhere is missing" in printed
    pairs = json.loads((output_dir / "pairs.json").read_text())["train"]
    assert Counter(entry["how"]["strategy"] for entry in pairs.values()) == PAIRS_OF


def test_a_fixer_keeps_novel_views_in_the_trainings(rig: Path, tmp_path: Path) -> None:
    sizes = ["--num-iterations", 40, "--image-scale", 0.25, "--every", 3]
    arguments = ["--scenes", rig, "--output-dir", tmp_path / "pairs", *sizes, "--strategies", "sparse"]
    printed = run("ns-difix", "curate", *arguments, "--fixer", "identity")
    assert re.search(r"Step \d+: (fixed|kept) [1-9]\d* novel views", printed)
    pairs = json.loads((tmp_path / "pairs" / "pairs.json").read_text())["train"]
    assert len(pairs) == PAIRS_OF["sparse"] and {entry["how"]["fixer"] for entry in pairs.values()} == {"identity"}
    assert not re.search("novel views", run("ns-difix", "curate", *arguments[:3], tmp_path / "plain", *arguments[4:]))
