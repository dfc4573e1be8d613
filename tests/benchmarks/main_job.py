"""Costs of training: steps, fixes by stage, the startup time of `ns-train`, and memory. Run by hand:

python tests/benchmarks/main_job.py --output main_job.json

It takes about ten minutes on a CPU; `--measure steps` measures one part only. `step_times.py`, `fix_stages.py`,
`startup_times.py` and `memory_peaks.py` next to this file explain how each part is measured.
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
sys.path.insert(0, str(HERE.parent))  # so that the parts can be imported from `benchmarks`

Part = Literal["steps", "fixes", "startup", "memory"]

MAX_STEP_OVERHEAD = 0.03
"""By how much a training step may be slower than splatfacto's."""
NOT_BOUNDED = ("splatfacto", "difix3d with fixed views, step of a fixed view")
"""Rows without a limit of their own: the baseline, and steps of fixed views, which the row of mixed steps includes."""
MAX_STARTUP_OVERHEAD = 0.05
"""By how much the plugin may slow down the help of a command."""


@dataclass
class BenchmarkConfig:
    """Settings of the benchmark."""

    measure: tuple[Part, ...] = ("steps", "fixes", "startup", "memory")
    """`steps`: training steps compared with splatfacto's; `fixes`: seconds per fixed view by stage; `startup`: time to
    print the help of `ns-train`; `memory`: peak memory of training."""
    scene: Path = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"
    """A transforms file with start points and held-out photos."""
    scale: float = 0.5
    """Factor on the photos' sizes in `steps` and `fixes`."""
    gaussians: int = 5_000
    """Number of Gaussians in `steps`, and at the start of `fixes`."""
    rounds: int = 150
    """Number of timed steps of each training run in `steps`."""
    bank_views: int = 100
    """Number of fixed views in the bank in `steps`."""
    warm_up: int = 30
    """Number of training steps before the timed part of `steps` and `fixes`."""
    fixes: int = 5
    """Number of timed fixes after the first."""
    network: str = "embedded"
    """The network in `fixes`, a value of `--pipeline.difix.model`."""
    startup_rounds: int = 5
    """How often each command is started in `startup`."""
    memory_steps: int = 60
    """Length of the training runs in `memory`."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """Device of the training runs in `steps` and `fixes`."""
    output: Path | None = None
    """JSON file for the figures, which is overwritten."""


def measure(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    """Measures the chosen parts and returns their figures.

    Args:
        config: settings of the benchmark.
        folder: a temporary folder for runs.
    """
    # Imported part by part, because importing nerfstudio takes seconds.
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
    """The figures as markdown tables."""
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
    later_fix = f"A later fix of {fixes['num_views']} views takes {fixes['seconds']:.2f} s"
    return [*lines, "", f"{later_fix}; {fixes['num_rejected']} of its views were rejected."]


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
    names = {"without": "no fixes", "with": "with fixes", "added": "added beyond the network's weights"}
    for key, name in names.items():
        lines.append(f"| {name} | {' | '.join(f'{memory[key][kind] / 1e6:.0f}' for kind in present)} |")
    return [*lines, "", f"The network's weights take {memory['added']['weights'] / 1e6:.0f} MB."]


def exceeded_limits(report: dict[str, Any]) -> list[str]:
    """A sentence for each limit that is exceeded by more than the noise of the figures explains."""
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
    """Measures, writes the figures and prints the tables; exits with code 1 if a limit is exceeded."""
    if not config.scene.is_file():
        raise SystemExit(f"no such transforms file: {config.scene}.")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(config, Path(folder))
    if config.output is not None:
        config.output.write_text(json.dumps(report, indent=2) + "\n")
    machine = report["machine"]
    print(f"\n{machine['device']}, {machine['threads']} threads, torch {machine['torch']}\n\n{table(report)}")
    exceeded = exceeded_limits(report)
    print("\n".join(exceeded) or "All limits are met within the noise of the figures.")
    if exceeded:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
