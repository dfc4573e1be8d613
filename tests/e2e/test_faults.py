"""Killed runs, damaged checkpoints and difficult scenes: the commands continue or end in one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from e2e.commands import OFFLINE, run

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana"
SMALL = (
    *("--vis", "tensorboard", "--pipeline.datamanager.camera-res-scale-factor", 0.25),
    *("--pipeline.model.max-gaussians", 1000, "--pipeline.model.min-initial-gaussians", 0),
    *("--pipeline.planned-num-iterations", 0, "--pipeline.model.num-downscales", 0, "--steps-per-eval-image", 0),
)


def train_command(scene: Path, output_dir: Path, *arguments: object) -> list[str]:
    command = ["ns-train", "difix3d-mini", "--data", scene, "--output-dir", output_dir, *SMALL, *arguments]
    return [str(part) for part in command]


def test_a_run_killed_during_a_fix_is_resumed_and_repeats_the_fix(tmp_path: Path) -> None:
    scene = BANANA / "transforms_biased3.json"
    first = [*("--timestamp", "first", "--max-num-iterations", 60, "--steps-per-save", 10)]
    many = ["--pipeline.targets.kind", "random", "--pipeline.targets.num-views", 40]  # makes a fix take seconds
    fixes = ["--pipeline.fix-steps", 5, 21, *many]
    (tmp_path / "log").touch()
    with (tmp_path / "log").open("w") as log:
        command = train_command(scene, tmp_path, *first, *fixes)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=OFFLINE)
        folder = tmp_path / "banana" / "difix3d-mini" / "first"
        try:
            # The fix comes right after this checkpoint and takes much longer than the steps before it.
            while not (folder / "nerfstudio_models" / "step-000000020.ckpt").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
                time.sleep(0.05)
            time.sleep(0.5)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert [path.name for path in (folder / "nerfstudio_models").iterdir()] == ["step-000000020.ckpt"]

    resume = ["--timestamp", "second", "--load-dir", folder / "nerfstudio_models", "--max-num-iterations", 4]
    printed = run(*train_command(scene, tmp_path, *resume, *fixes))
    assert re.findall(r"Step (\d+): fixed 40", printed) == ["21"]
    second = folder.with_name("second")
    assert [path.name for path in sorted((second / "pseudo_views").glob("*step*"))] == [
        "step-000000005",
        "step-000000021",
    ]
    assert [path.name for path in (second / "nerfstudio_models").iterdir()] == ["step-000000024.ckpt"]


def test_two_photos_in_a_read_only_folder_with_a_unicode_name_train_with_fixes(tmp_path: Path) -> None:
    scene = tmp_path / "Szene Nr. [7] größer 漢字"
    scene.mkdir()
    transforms = json.loads((BANANA / "transforms_biased3.json").read_text())
    chosen = [frame for frame in transforms["frames"] if frame["file_path"] in transforms["train_filenames"]][:2]
    for number, frame in enumerate(chosen):
        photo = f"photos/фото {'x' * 200} {number}.jpg"
        (scene / photo).parent.mkdir(exist_ok=True)
        shutil.copy(BANANA / frame["file_path"], scene / photo)
        frame["file_path"] = photo
    shutil.copy(BANANA / transforms["ply_file_path"], scene)
    transforms["frames"] = chosen
    for part in ("train", "val", "test"):
        transforms.pop(f"{part}_filenames")
    (scene / "transforms.json").write_text(json.dumps(transforms, ensure_ascii=False), encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in [scene, *scene.rglob("*")]}
    for path in before:
        path.chmod(0o555)
    try:
        arguments = ["--max-num-iterations", 8, "--pipeline.fix-steps", 4, "--pipeline.targets.kind", "interpolate"]
        printed = run(*train_command(scene, tmp_path / "Läufe 出力", *arguments, "--pipeline.targets.num-views", 2))
    finally:
        for path in before:
            path.chmod(0o755)
    assert "Step 4: fixed 2 novel views" in printed
    assert {path: path.stat().st_mtime_ns for path in [scene, *scene.rglob("*")]} == before
    (checkpoint,) = (tmp_path / "Läufe 出力").rglob("*.ckpt")
    assert os.path.commonpath([checkpoint, scene]) == str(tmp_path)


def test_a_run_with_damaged_checkpoints_loads_an_intact_one_or_ends_in_one_sentence(tmp_path: Path) -> None:
    arguments = ["--max-num-iterations", 7, "--steps-per-save", 3, "--save-only-latest-checkpoint", False]
    run(*train_command(BANANA / "transforms_biased3.json", tmp_path, *arguments, "--pipeline.fix-novel-views", False))
    (config,) = tmp_path.rglob("config.yml")
    older, newest = sorted((config.parent / "nerfstudio_models").iterdir())
    os.truncate(newest, newest.stat().st_size // 2)
    export = ["ns-export", "gaussian-splat", "--load-config", config, "--output-dir", tmp_path / "splat"]
    printed = "".join(run(*export).split())
    assert f"{newest.name}cannotberead" in printed and f"Doneloadingcheckpointfrom{older}" in printed
    assert list((tmp_path / "splat").glob("*.ply"))

    os.truncate(older, older.stat().st_size // 2)
    for command in (
        [*export[:-1], tmp_path / "none"],
        ["ns-eval", "--load-config", config, "--output-path", tmp_path / "none" / "eval.json"],
        ["ns-render", "dataset", "--load-config", config, "--output-path", tmp_path / "none"],
        ["ns-viewer", "--load-config", config],
    ):
        printed = run(*command, expect=1)
        assert f"difix3d: the checkpoint {older} cannot be read" in printed and "Traceback" not in printed
    assert not list((tmp_path / "none").glob("*"))  # ns-export makes the folder before it loads the run
