"""Measures on held-out photos whether the progressive update improves scenes and harms none. Run by hand:

python tests/benchmarks/progressive.py --output-dir progressive --scenes SCENE/transforms_SPLIT.json ...

Each scene is trained by `ns-train difix3d-mini` without fixes, with the published schedule of fixes and with this
package's. The latter two are run with the embedded network, with the identity, which returns renders unchanged and so
shows what novel views gain without a network, and with an oracle (`oracle_fixer.py`). `ns-eval` measures them. A run
takes minutes on a CPU; finished runs stay when the command is repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from difix3d_ns.difix.resolve import EMBEDDED_MODEL

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the report can be imported from `benchmarks`

from benchmarks.progressive_report import (  # noqa: E402
    METRICS,
    TITLES,
    cell,
    failed_expectations,
    means,
    read_results,
    write_report,
)

DEMO = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"

Schedule = Literal["none", "published", "ours"]
Fixer = Literal["embedded", "identity", "oracle"]

PUBLISHED_FIX_STEPS = (3000, *range(6000, 60_001, 2000))
"""Fix steps of runs of at least 30 000 steps; in a shorter run they are scaled."""
OPTIONS: dict[Schedule, tuple[str, ...]] = {
    "none": ("--pipeline.fix-novel-views", "False"),
    # All settings of the loop as in the authors' code (arXiv 2503.01774, section 4.2).
    "published": (
        *("--pipeline.fix-steps", *map(str, PUBLISHED_FIX_STEPS)),
        *("--pipeline.planned-num-iterations", "30000"),
        *("--pipeline.step-length", "0.5"),
        *("--pipeline.step-unit", "units"),
        *("--pipeline.min-accumulation", "0.5"),
        *("--pipeline.references.choice", "pose"),
        *("--pipeline.match-colors", "False"),
        *("--pipeline.trust.check", "False"),
        *("--pipeline.confidence.weigh", "False"),
        *("--pipeline.reliability.test", "False"),
        *("--pipeline.datamanager.bank.draw-from", "newest"),
        *("--pipeline.datamanager.pseudo-view-probability", "0.3"),
        *("--pipeline.model.pseudo-view-loss-weight", "0.3"),
    ),
    "ours": (),
}


IDENTITY = (
    *("--pipeline.difix.model", "identity"),
    # It removes no error at photos, which early fixes ask of a network.
    *("--pipeline.reliability.needed-for-early-fixes", "0"),
)
"""Options that put the identity in place of the network."""


@dataclass
class BenchmarkConfig:
    """Settings of the benchmark."""

    output_dir: Path
    """Folder for the runs, `results.json`, `table.md` and `figure.png`."""
    scenes: tuple[Path, ...] = (DEMO,)
    """Transforms files with few training photos and some held-out ones."""
    fixers: tuple[Fixer, ...] = ("oracle", "identity", "embedded")
    """The fixers to use. Runs without fixes are made in any case, before those with fixes."""
    schedules: tuple[Schedule, ...] = ("none", "published", "ours")
    """The schedules to use."""
    steps: int = 800
    """Length of every run."""
    seeds: tuple[int, ...] = (42,)
    """Every run is made with each seed, and the table has means: short runs on few photos depend much on the seed."""
    again: bool = False
    """Whether to repeat finished runs of these scenes, fixers and schedules, for example with a new network."""


@dataclass(frozen=True)
class Run:
    """One training run."""

    scene: Path
    schedule: Schedule
    fixer: Fixer | None
    """The fixer; None without fixes."""
    seed: int

    @property
    def scene_name(self) -> str:
        """Name of the scene's folder and split, such as `banana biased3`."""
        return f"{self.scene.parent.name} {self.scene.stem.removeprefix('transforms').strip('_')}".strip()

    @property
    def variant(self) -> str:
        """Name of schedule and fixer in `results.json`."""
        return self.schedule if self.fixer is None else f"{self.schedule}-{self.fixer}"

    @property
    def name(self) -> str:
        """Folder of the run, relative to the output folder."""
        return f"{self.scene_name.replace(' ', '-')}/{self.variant}/seed-{self.seed}"

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `ns-train` for schedule and fixer."""
        return (*OPTIONS[self.schedule], *(IDENTITY if self.fixer == "identity" else ()))

    @property
    def method(self) -> str:
        """The registered method to train."""
        return "difix3d-mini-oracle" if self.fixer == "oracle" else "difix3d-mini"


def runs_of(config: BenchmarkConfig) -> list[Run]:
    """All training runs, the quickest first."""
    schedules = [schedule for schedule in config.schedules if schedule != "none"]
    kinds: list[tuple[Schedule, Fixer | None]] = [("none", None)] if "none" in config.schedules else []
    kinds += [(schedule, fixer) for fixer in config.fixers for schedule in schedules]
    return [Run(scene, *kind, seed) for seed in config.seeds for kind in kinds for scene in config.scenes]


def train_and_evaluate(run: Run, config: BenchmarkConfig) -> dict[str, float]:
    """Trains and evaluates a run, unless it is finished, and returns its metrics on the held-out photos.

    Raises:
        SystemExit: a command failed, or the finished run has other settings.
    """
    folder = (config.output_dir / run.name).resolve()
    described = {"steps": config.steps, "seed": run.seed, "options": [run.method, *run.options]}
    if run.fixer == "embedded":
        described["network"] = embedded_network()
    done = folder / "eval.json"
    settings = folder / "benchmark.json"
    if done.exists() and not config.again:
        if not settings.exists() or json.loads(settings.read_text()) != described:
            raise SystemExit(
                f"{folder} contains a run with other settings or with another embedded network: "
                "choose another --output-dir or add --again."
            )
        return metrics_of(json.loads(done.read_text()))
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts again
    folder.mkdir(parents=True)
    settings.write_text(json.dumps(described))
    train = [
        *("ns-train", run.method, "--data", str(run.scene.resolve()), "--vis", "tensorboard"),
        *("--output-dir", str(folder), "--experiment-name", "run", "--timestamp", "run"),
        *("--max-num-iterations", str(config.steps)),
        *("--machine.seed", str(run.seed)),
        *("--pipeline.datamanager.train-cameras-sampling-seed", str(run.seed)),
        *("--pipeline.evaluate-enhanced", str(run.fixer != "oracle")),
        *run.options,
    ]
    trained = folder / "run" / run.method / "run" / "config.yml"
    for command in (train, ["ns-eval", "--load-config", str(trained), "--output-path", str(done)]):
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(command, env=_environment(), stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            raise SystemExit(f"{command[0]} failed with exit code {code}: see {folder / 'log.txt'}.")
    return metrics_of(json.loads(done.read_text()))


def embedded_network() -> str:
    """A digest of the embedded network's weights, which identifies the network."""
    digest = hashlib.sha256()
    for file in sorted(EMBEDDED_MODEL.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _environment() -> dict[str, str]:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "NERFSTUDIO_METHOD_CONFIGS": "difix3d-mini-oracle=oracle_fixer:difix3d_mini_oracle",
        "COLUMNS": "200",
    }


def metrics_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """PSNR, SSIM and, if available, LPIPS of renders and enhanced renders, from the output of `ns-eval`."""
    wanted = [f"{metric}{suffix}" for suffix in ("", "_enhanced") for metric in METRICS]
    return {name: evaluation["results"][name] for name in wanted if name in evaluation["results"]}


def main(config: BenchmarkConfig) -> None:
    """Makes the missing runs and prints the table; exits with code 1 if a scene is harmed."""
    missing = [str(scene) for scene in config.scenes if not scene.is_file()]
    if missing:
        raise SystemExit(f"no such transforms file: {', '.join(missing)}.")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    results = read_results(config.output_dir)
    runs = runs_of(config)
    for number, run in enumerate(runs, 1):
        metrics = train_and_evaluate(run, config)
        results.setdefault(run.scene_name, {}).setdefault(run.variant, {})[str(run.seed)] = metrics
        write_report(results, config.output_dir)
        title = f"{run.scene_name}, {TITLES[run.variant]}, seed {run.seed}"
        print(f"[{number}/{len(runs)}] {title}: {cell(metrics)}", flush=True)
    print(f"\n{(config.output_dir / 'table.md').read_text()}")
    print(f"PSNR (dB) / SSIM / LPIPS on held-out photos, {config.steps} steps, means over the seeds.")
    failures = failed_expectations(means(results))
    print(
        "\n".join(failures)
        or "With the oracle no scene is worse than with the published schedule, and no scene is harmed."
    )
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
