"""Peak memory of `ns-train difix3d-mini` with and without fixes, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from difix3d_ns.difix.resolve import EMBEDDED_MODEL

START = """
import json, resource, sys
from pathlib import Path
result = Path(sys.argv[1])
sys.argv = ["ns-train", *sys.argv[2:]]
from nerfstudio.scripts.train import entrypoint
entrypoint()
import torch
unit = 1 if sys.platform == "darwin" else 1024
peaks = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
if torch.cuda.is_available():
    peaks["cuda"] = torch.cuda.max_memory_allocated()
result.write_text(json.dumps(peaks))
"""
"""A program that runs `ns-train` and then writes its peak memory in bytes to the file named by its first argument."""


def weight_bytes(folder: Path = EMBEDDED_MODEL) -> int:
    """Size of a network's weights on disk, which in float32 is also their size in memory."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def train(scene: Path, folder: Path, name: str, options: tuple[str, ...], num_steps: int) -> dict[str, int]:
    """Trains and returns the peak memory in bytes: `rss` of the process and `cuda`, allocated by PyTorch on the GPU.

    Args:
        scene: a transforms file.
        folder: folder for the run.
        name: name of the run.
        options: options of `ns-train difix3d-mini`.
        num_steps: length of the run.

    Raises:
        SystemExit: the training failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [
        *(sys.executable, "-c", START, str(result), "difix3d-mini", "--data", str(scene.resolve())),
        *("--vis", "tensorboard", "--output-dir", str(folder), "--timestamp", name),
        *("--max-num-iterations", str(num_steps), "--pipeline.difix.model", "embedded", *options),
    ]
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"})
    if done.returncode != 0 or not result.exists():
        raise SystemExit(f"ns-train failed with exit code {done.returncode}: {log.read_text()[-2000:]}")
    return json.loads(result.read_text())


def measure_memory(scene: Path, folder: Path, num_steps: int) -> dict[str, Any]:
    """Peak memory of training without and with fixes, and what fixes add beyond the network's weights, in bytes.

    Args:
        scene: a transforms file.
        folder: folder for the runs.
        num_steps: length of both runs; the method's schedule of fixes is scaled to it.
    """
    without = train(scene, folder, "without-fixes", ("--pipeline.fix-novel-views", "False"), num_steps)
    fixing = train(scene, folder, "with-fixes", (), num_steps)
    return {"without": without, "with": fixing, "added": added(without, fixing, weight_bytes())}


def added(without: dict[str, int], fixing: dict[str, int], weights: int) -> dict[str, int]:
    """What fixes add to each peak beyond the network's weights, in bytes."""
    return {"weights": weights, **{kind: fixing[kind] - without[kind] - weights for kind in without}}
