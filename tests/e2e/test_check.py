"""`ns-difix check`, and the sentence that `difix3d` prints on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from e2e.commands import run

from difix3d_ns.machine.starting import DAYS_ON_CPU

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says something else where there is a GPU")


@no_gpu
def test_check_on_a_machine_without_a_gpu_names_what_trains_there() -> None:
    printed = run("ns-difix", "check", expect=1)
    assert f"torch:            {torch.__version__}" in printed
    assert "difix3d-mini trains here on the CPU in minutes, but difix3d takes days" in printed.splitlines()[-1]


@no_gpu
def test_difix3d_on_the_cpu_says_how_long_it_takes_and_goes_on(tmp_path: Path) -> None:
    small = ["--pipeline.datamanager.camera-res-scale-factor", 0.25, "--pipeline.model.num-downscales", 0]
    short = ["--max-num-iterations", 2, "--vis", "tensorboard", "--output-dir", tmp_path]
    printed = run("ns-train", "difix3d", "--data", BANANA, *small, *short)
    assert printed.count(DAYS_ON_CPU["difix3d"]) == 1
    assert list(tmp_path.rglob("step-*.ckpt"))
