"""Training in several processes gives the same result as in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from difix.training.test_training import distance, saved_weights

from difix3d_ns.difix.training.train import train
from difix3d_ns.difix.training.train_options import LossConfig, TrainConfig

LAUNCHED = Path(__file__).with_name("launched_training.py")


def launch_two_processes(config: TrainConfig) -> None:
    """Trains in two processes that exchange gradients with gloo."""
    options = {
        "--pairs": config.pairs,
        "--output-dir": config.output_dir,
        "--base": config.base,
        "--steps": config.steps,
        "--batch-size": config.batch_size,
        "--gradient-accumulation-steps": config.gradient_accumulation_steps,
        "--crop-size": config.crop_size,
        "--learning-rate": config.learning_rate,
        "--warmup-steps": config.warmup_steps,
        "--steps-per-save": config.steps_per_save,
        "--loss.backbone": "none",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(LAUNCHED), *(str(part) for option in options.items() for part in option)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "processes: 2, batches per process: 2" in done.stdout
    assert done.stdout.count("the process group is closed last") == 2


@pytest.mark.timeout(600)
def test_two_processes_train_like_one_with_a_larger_batch_even_if_interrupted(
    make_config: Callable[..., TrainConfig], tmp_path: Path, pairs_json: Path, tiny_base: Path
) -> None:
    pairs = json.loads(pairs_json.read_text())
    pairs["test"]["another"] = pairs["train"]["view_0"]  # so that each process has a test pair
    pairs_json.write_text(json.dumps(pairs))
    settings = {"train_parts": None, "steps": 3, "loss": LossConfig(backbone="none")}
    together = make_config(output_dir=tmp_path / "two", batch_size=1, gradient_accumulation_steps=2, **settings)
    launch_two_processes(replace(together, steps=2))
    launch_two_processes(together)  # resumes from the checkpoint
    of_one = train(make_config(output_dir=tmp_path / "one", batch_size=4, **settings))

    start, one, two = (saved_weights(folder) for folder in (tiny_base, tmp_path / "one", tmp_path / "two"))
    assert distance(one, two) < 0.02 * distance(one, start)
    of_two = json.loads((together.output_dir / "metrics.json").read_text())["metrics"]
    assert of_two == pytest.approx(of_one, abs=1e-3)
