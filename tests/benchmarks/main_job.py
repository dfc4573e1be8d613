"""What the main job costs: training steps, fixes by stage, the start of `ns-train`, and memory. Run by hand:

python tests/benchmarks/main_job.py --output main_job.json

It takes some ten minutes on a CPU; `--measure steps` and the like take one part alone. How each is measured is told in
`step_times.py`, `fix_stages.py`, `startup_times.py` and `memory_peaks.py` beside this file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # where the parts are found as `benchmarks`, however this file is started

Part = Literal["steps", "fixes", "startup", "memory"]

MAX_STEP_OVERHEAD = 0.03
"""By which a training step may be slower than splatfacto's."""
NOT_BOUNDED = ("splatfacto", "difix3d with fixed views, step of a fixed view")
"""Rows of no bound of their own: what is compared with, and the steps that weigh pixels, which the mixed row counts."""
MAX_STARTUP_OVERHEAD = 0.05
"""By which a command's help may come later for the plugin."""


@dataclass
class BenchmarkConfig:
    """What is measured."""

    measure: tuple[Part, ...] = ("steps", "fixes", "startup", "memory")
    """`steps`: training steps against splatfacto's; `fixes`: seconds per fixed view by stage; `startup`: the help of
    `ns-train`; `memory`: peaks of trainings."""
    scene: Path = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"
    """In nerfstudio's format, with start points and held-out photos."""
    scale: float = 0.5
    """Factor on the photos' sizes in `steps` and `fixes`."""
    gaussians: int = 5_000
    """Of the splat in `steps`, and to start from in `fixes`."""
    rounds: int = 150
    """Steps of each training that are timed."""
    bank_views: int = 100
    """Fixed views that the training with fixes draws from in `steps`."""
    warm_up: int = 30
    """Training steps before anything is timed in `steps` and `fixes`."""
    fixes: int = 5
    """Fixes that are timed after the first."""
    network: str = "embedded"
    """The network of `fixes`, as in `--pipeline.difix.model`."""
    startup_rounds: int = 5
    """Times that each command is started in `startup`."""
    memory_steps: int = 60
    """Length of the trainings in `memory`."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the trainings of `steps` and `fixes` run."""
    output: Path | None = None
    """A JSON file for the figures; it is replaced."""


def measure(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    """The figures of the parts that are asked for.

    Args:
        config: what is measured.
        folder: for runs that nobody needs afterwards.
    """
    # Loaded part by part: nerfstudio loads for seconds.
    report: dict[str, Any] = {
        "machine": {"device": config.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    }
    if "steps" in config.measure:
        from benchmarks.step_times import configs, measure_steps

        trainings = configs(config.scene, folder, config.gaussians, config.scale, config.device)
        report["steps"] = measure_steps(trainings, config.rounds, config.bank_views, config.warm_up)
    if "fixes" in config.measure:
        from benchmarks.fix_stages import fix_config, measure_fixes

        training = fix_config(config.scene, folder, config.gaussians, config.scale, config.device, config.network)
        report["fixes"] = measure_fixes(training, config.warm_up, config.fixes)
    if "startup" in config.measure:
        from benchmarks.startup_times import measure_startup

        report["startup"] = measure_startup(config.startup_rounds)
    if "memory" in config.measure:
        from benchmarks.memory_peaks import measure_memory

        report["memory"] = measure_memory(config.scene, folder, config.memory_steps)
    return report


def table(report: dict[str, Any]) -> str:
    """The figures for people, as markdown tables."""
    tables = {"steps": _steps_table, "fixes": _fixes_table, "startup": _startup_table, "memory": _memory_table}
    return "\n".join("\n".join(tables[part](report[part])) + "\n" for part in tables if part in report)


def _steps_table(rows: dict[str, Any]) -> list[str]:
    lines = ["| training step | seconds, median | more than splatfacto (95% interval) |", "|---|---|---|"]
    for name, row in rows.items():
        bounds = f"{row['overhead_low']:+.1%} to {row['overhead_high']:+.1%}"
        more = "" if name == next(iter(rows)) else f"{row['overhead']:+.1%} ({bounds})"
        lines.append(f"| {name} | {row['seconds']:.4f} | {more} |")
    return lines


def _fixes_table(fixes: dict[str, Any]) -> list[str]:
    first, later = fixes["first"], fixes["later"]
    lines = ["| stage of a fix | seconds per view, first fix | later fixes, median |", "|---|---|---|"]
    for name in dict.fromkeys([*first, *later]):
        lines.append(f"| {name} | {first.get(name, 0.0):.4f} | {later.get(name, 0.0):.4f} |")
    lines.append(f"| in all | {sum(first.values()):.4f} | {sum(later.values()):.4f} |")
    told = f"A later fix of {fixes['num_views']} views takes {fixes['seconds']:.2f} s"
    return [*lines, "", f"{told}; {fixes['num_rejected']} of its views were rejected."]


def _startup_table(rows: dict[str, Any]) -> list[str]:
    lines = ["| command | seconds, fastest | median | more CPU than the line above, least | median |", "|---" * 5 + "|"]
    for name, row in rows.items():
        more = [f"{row[key]:+.1%}" if key in row else "" for key in ("more_min", "more_median")]
        lines.append(f"| {name} | {row['seconds_min']:.2f} | {row['seconds_median']:.2f} | {' | '.join(more)} |")
    return lines


def _memory_table(memory: dict[str, Any]) -> list[str]:
    kinds = {"rss": "process", "cuda": "CUDA"}
    present = [kind for kind in kinds if kind in memory["without"]]
    lines = [f"| peak memory, MB | {' | '.join(kinds[kind] for kind in present)} |", "|---" * (len(present) + 1) + "|"]
    told = {"without": "no fixes", "with": "with fixes", "added": "added beyond the network's weights"}
    for key, name in told.items():
        lines.append(f"| {name} | {' | '.join(f'{memory[key][kind] / 1e6:.0f}' for kind in present)} |")
    return [*lines, "", f"The network's weights take {memory['added']['weights'] / 1e6:.0f} MB."]


def broken_promises(report: dict[str, Any]) -> list[str]:
    """A sentence for each bound that is surely passed: beyond what the noise of the figures can explain."""
    sentences = []
    steps = {name: row for name, row in report.get("steps", {}).items() if name not in NOT_BOUNDED}
    for name, row in steps.items():
        if row["overhead_low"] > MAX_STEP_OVERHEAD:
            sentences.append(f"{name}: a step takes {row['overhead']:.1%} more than splatfacto's.")
    for name, row in report.get("startup", {}).items():
        if min(row.get("more_min", 0.0), row.get("more_median", 0.0)) > MAX_STARTUP_OVERHEAD:
            sentences.append(f"{name} takes {row['more_min']:.1%} more than its counterpart.")
    return sentences


def main(config: BenchmarkConfig) -> None:
    """Measures, prints the table and writes the file."""
    if not config.scene.is_file():
        raise SystemExit(f"no such transforms file: {config.scene}.")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(config, Path(folder))
    if config.output is not None:
        config.output.write_text(json.dumps(report, indent=2) + "\n")
    machine = report["machine"]
    print(f"\n{machine['device']}, {machine['threads']} threads, torch {machine['torch']}\n\n{table(report)}")
    broken = broken_promises(report)
    print("\n".join(broken) or "No bound is surely passed.")
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
