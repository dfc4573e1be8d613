"""`ns-train` as a user types it, on a GPU: 200 steps with fixes, and what becomes of the scene."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from e2e.commands import run
from scenes_of_photos import BANANA

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("real_gpu"), pytest.mark.timeout(3600)]


@pytest.mark.parametrize("method", ["difix3d-mini", "difix3d"])
def test_200_steps_fix_novel_views_and_fit_the_photos(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(
        *("ns-train", method, "--data", BANANA / "transforms_biased3.json", "--output-dir", tmp_path),
        *("--vis", "tensorboard", "--max-num-iterations", 200, "--pipeline.planned-num-iterations", 0),
        *("--pipeline.fix-steps", 80, 150, "--pipeline.early-fix-steps", "--pipeline.difix.model", "embedded"),
        *("--pipeline.model.warmup-length", 20, "--pipeline.model.refine-every", 20),
    )
    lines = re.findall(r"Step \d+: fixed 5 novel views.*", printed)
    assert len(lines) == 2, printed[-4000:]
    (config,) = tmp_path.rglob("config.yml")
    run("ns-eval", "--load-config", config, "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    with capsys.disabled():
        print(f"\n{method}: {lines[-1]}; PSNR {results['psnr']:.2f}, enhanced {results['psnr_enhanced']:.2f}")
    assert results["psnr"] > 8 and results["psnr_enhanced"] > 8
