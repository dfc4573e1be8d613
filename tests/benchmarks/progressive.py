"""Whether the progressive update improves scenes and harms none: held-out figures of real runs. Run by hand:

python tests/benchmarks/progressive.py --output-dir progressive --scenes SCENE/transforms_SPLIT.json ...

Each scene is trained by `ns-train difix3d-mini` without fixes, with the published schedule of fixes and with this
package's, the latter two with the embedded network and with an oracle (`oracle_fixer.py`), and measured by `ns-eval`.
It takes minutes a run on a CPU; what is finished stays when the command is repeated.
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
DEMO = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"
METRICS = ("psnr", "ssim", "lpips")

Schedule = Literal["none", "published", "ours"]
Fixer = Literal["embedded", "oracle"]

PUBLISHED_FIX_STEPS = (3000, *range(6000, 60_001, 2000))
"""Of 30 000 steps and more; a shorter run takes them in proportion."""
OPTIONS: dict[Schedule, tuple[str, ...]] = {
    "none": ("--pipeline.fix-novel-views", "False"),
    # Every setting of the loop as in the authors' code (arXiv 2503.01774, section 4.2), and nothing of ours.
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


@dataclass
class BenchmarkConfig:
    """What is trained and where the results go."""

    output_dir: Path
    """Runs, `results.json`, `table.md` and `figure.png`."""
    scenes: tuple[Path, ...] = (DEMO,)
    """Transforms files of sparse splits, with training photos and held-out ones."""
    fixers: tuple[Fixer, ...] = ("oracle", "embedded")
    """What fixes novel views; runs without fixes come before them in any case."""
    schedules: tuple[Schedule, ...] = ("none", "published", "ours")
    """Which of the three are trained."""
    steps: int = 800
    """Length of every run."""
    seed: int = 42
    """Seed of every run."""
    again: bool = False
    """Whether finished runs of these scenes, fixers and schedules are trained again, as for a new network."""


@dataclass(frozen=True)
class Run:
    """One training."""

    scene: Path
    schedule: Schedule
    fixer: Fixer | None
    """None without fixes."""

    @property
    def scene_name(self) -> str:
        """Folder and split, such as `banana biased3`."""
        return f"{self.scene.parent.name} {self.scene.stem.removeprefix('transforms').strip('_')}".strip()

    @property
    def name(self) -> str:
        """What `results.json` and the runs' folder call it."""
        variant = self.schedule if self.fixer is None else f"{self.schedule}-{self.fixer}"
        return f"{self.scene_name.replace(' ', '-')}/{variant}"

    @property
    def method(self) -> str:
        """The registered method."""
        return "difix3d-mini-oracle" if self.fixer == "oracle" else "difix3d-mini"


def runs_of(config: BenchmarkConfig) -> list[Run]:
    """All trainings, those that cost least first."""
    runs = [Run(scene, "none", None) for scene in config.scenes if "none" in config.schedules]
    for fixer in config.fixers:
        runs += [
            Run(scene, schedule, fixer)
            for scene in config.scenes
            for schedule in config.schedules
            if schedule != "none"
        ]
    return runs


def train_and_evaluate(run: Run, config: BenchmarkConfig) -> dict[str, float]:
    """Metrics on the held-out photos by `ns-train` and `ns-eval`; of a finished run without either.

    Raises:
        SystemExit: a command failed, or the finished run is of other settings.
    """
    folder = (config.output_dir / run.name).resolve()
    described = {"steps": config.steps, "seed": config.seed, "options": [run.method, *OPTIONS[run.schedule]]}
    if run.fixer == "embedded":
        described["network"] = embedded_network()
    done = folder / "eval.json"
    told = folder / "benchmark.json"
    if done.exists() and not config.again:
        if not told.exists() or json.loads(told.read_text()) != described:
            raise SystemExit(
                f"{folder} holds a run of other settings or of another embedded network: "
                "choose another --output-dir or add --again."
            )
        return metrics_of(json.loads(done.read_text()))
    shutil.rmtree(folder, ignore_errors=True)  # what broke off begins anew
    folder.mkdir(parents=True)
    told.write_text(json.dumps(described))
    train = [
        *("ns-train", run.method, "--data", str(run.scene.resolve()), "--vis", "tensorboard"),
        *("--output-dir", str(folder), "--experiment-name", "run", "--timestamp", "run"),
        *("--max-num-iterations", str(config.steps)),
        *("--machine.seed", str(config.seed)),
        *("--pipeline.datamanager.train-cameras-sampling-seed", str(config.seed)),
        *("--pipeline.evaluate-enhanced", str(run.fixer != "oracle")),
        *OPTIONS[run.schedule],
    ]
    trained = folder / "run" / run.method / "run" / "config.yml"
    for command in (train, ["ns-eval", "--load-config", str(trained), "--output-path", str(done)]):
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(command, env=_environment(), stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            raise SystemExit(f"{command[0]} failed with exit code {code}: see {folder / 'log.txt'}.")
    return metrics_of(json.loads(done.read_text()))


def embedded_network() -> str:
    """What tells one embedded network from another: a digest of its weights."""
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
    """PSNR, SSIM and, where it could be had, LPIPS out of what `ns-eval` wrote; of enhanced renders too."""
    wanted = [f"{metric}{suffix}" for suffix in ("", "_enhanced") for metric in METRICS]
    return {name: evaluation["results"][name] for name in wanted if name in evaluation["results"]}


Results = dict[str, dict[str, dict[str, float]]]
"""Metrics by scene and by variant, such as `ours-oracle`."""
VARIANTS = ("none", "published-embedded", "ours-embedded", "published-oracle", "ours-oracle")
"""In the order of the table's columns."""
TITLES = {
    "none": "no fixes",
    "published-embedded": "published, embedded",
    "ours-embedded": "ours, embedded",
    "published-oracle": "published, oracle",
    "ours-oracle": "ours, oracle",
}


def table(results: Results) -> str:
    """A markdown table: a row a scene, PSNR (dB) / SSIM / LPIPS in each cell; `-` for LPIPS where it cannot be had."""
    variants = [variant for variant in VARIANTS if any(variant in row for row in results.values())]
    lines = [
        "| scene | " + " | ".join(TITLES[variant] for variant in variants) + " |",
        "|---" * (len(variants) + 1) + "|",
    ]
    for scene, row in results.items():
        lines.append(f"| {scene} | " + " | ".join(_cell(row.get(variant)) for variant in variants) + " |")
    return "\n".join(lines) + "\n"


def _cell(metrics: dict[str, float] | None) -> str:
    if metrics is None:
        return ""
    lpips = f"{metrics['lpips']:.3f}" if "lpips" in metrics else "-"
    return f"{metrics['psnr']:.2f} / {metrics['ssim']:.3f} / {lpips}"


def broken_promises(results: Results, max_loss_db: float = 0.1) -> list[str]:
    """Where the update does not hold what it is to hold.

    Args:
        results: by scene and variant; what has not been run is not judged.
        max_loss_db: PSNR that fixes by the embedded network may cost.

    Returns:
        A sentence for each scene on which the oracle's fixes gain less by our schedule than by the published one, or
        on which the embedded network's harm.
    """
    sentences = []
    for scene, row in results.items():
        psnr = {variant: metrics["psnr"] for variant, metrics in row.items()}
        if {"ours-oracle", "published-oracle"} <= psnr.keys() and psnr["ours-oracle"] < psnr["published-oracle"]:
            less = psnr["published-oracle"] - psnr["ours-oracle"]
            sentences.append(f"{scene}: with the oracle ours is {less:.2f} dB below the published schedule.")
        if {"ours-embedded", "none"} <= psnr.keys() and psnr["ours-embedded"] < psnr["none"] - max_loss_db:
            less = psnr["none"] - psnr["ours-embedded"]
            sentences.append(f"{scene}: fixes by the embedded network cost {less:.2f} dB.")
    return sentences


def draw_figure(results: Results, file: Path) -> None:
    """Gains over the run without fixes, in PSNR and SSIM, as bars by scene; scenes without such a run are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scenes = [scene for scene, row in results.items() if "none" in row]
    variants = [v for v in VARIANTS[1:] if any(v in results[scene] for scene in scenes)]
    colors = dict(zip(VARIANTS[1:], ("#b8b8b8", "#e08a3c", "#7f7f7f", "#3c78b4"), strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, metric, label in zip(axes, ("psnr", "ssim"), ("PSNR gained (dB)", "SSIM gained"), strict=True):
        width = 0.8 / max(1, len(variants))
        for index, variant in enumerate(variants):
            here = [i for i, scene in enumerate(scenes) if variant in results[scene]]
            gains = [results[scenes[i]][variant][metric] - results[scenes[i]]["none"][metric] for i in here]
            middles = [i + (index - (len(variants) - 1) / 2) * width for i in here]
            bars = axis.bar(middles, gains, width, label=TITLES[variant], color=colors[variant])
            axis.bar_label(bars, fmt="%+.1f" if metric == "psnr" else "%+.3f", fontsize=6, padding=1)
        named = [f"{scene}\n{results[scene]['none'][metric]:.2f} without" for scene in scenes]
        axis.set_xticks(range(len(scenes)), named, fontsize=8)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.margins(y=0.12)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def write_report(results: Results, folder: Path) -> None:
    """Writes `results.json`, `table.md` and `figure.png`."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "table.md").write_text(table(results))
    draw_figure(results, folder / "figure.png")


def read_results(folder: Path) -> Results:
    """What an earlier call found; empty for none."""
    file = folder / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}


def main(config: BenchmarkConfig) -> None:
    """Trains what is not trained yet and prints the table."""
    missing = [str(scene) for scene in config.scenes if not scene.is_file()]
    if missing:
        raise SystemExit(f"no such transforms file: {', '.join(missing)}.")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    results = read_results(config.output_dir)
    runs = runs_of(config)
    for number, run in enumerate(runs, 1):
        scene, variant = run.scene_name, run.name.split("/")[-1]
        metrics = train_and_evaluate(run, config)
        results.setdefault(scene, {})[variant] = metrics
        write_report(results, config.output_dir)
        print(f"[{number}/{len(runs)}] {scene}, {TITLES[variant]}: {_cell(metrics)}", flush=True)
    print(f"\n{table(results)}\nPSNR (dB) / SSIM / LPIPS on held-out photos, {config.steps} steps.")
    broken = broken_promises(results)
    print("\n".join(broken) or "Ours is nowhere below the published schedule with the oracle, and harms nowhere.")
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
