"""Measures on held-out photos whether the progressive update improves scenes and harms none. Run by hand:

python tests/benchmarks/progressive.py --output-dir progressive --scenes SCENES/*/transforms_{biased,sparse}*.json

Each scene is trained by `ns-train difix3d-mini` without fixes, with the published schedule of fixes and with this
package's. The latter two are run with the embedded network, with the identity, which returns renders unchanged and so
shows what novel views gain without a network, and with an oracle (`oracle_fixer.py`). `ns-eval` measures them over
whole photos. `progressive_measure.py` also measures them over covered pixels, whose surface at least one training photo
shows: a splat that is trained on all photos of the scene decides which these are (`progressive_coverage.py`).

A run takes minutes on a CPU, and so does the coverage of a scene. What is finished stays when the command is repeated:
runs are measured over new masks without training again.

Any other setting is measured in the same way as a variant, for example with
--variants "weaker=--pipeline.difix.strength 0.5". To make only what it is compared with, add
--schedules none ours --fixers identity.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that the other files can be imported from `benchmarks`

from benchmarks.progressive_coverage import Coverage  # noqa: E402
from benchmarks.progressive_measure import PerceptualDistance  # noqa: E402
from benchmarks.progressive_report import (  # noqa: E402
    COVERED,
    TITLES,
    cell,
    failed_expectations,
    means,
    read_results,
    title_of,
    write_report,
)
from benchmarks.progressive_runs import (  # noqa: E402
    Fixer,
    Run,
    Schedule,
    Setting,
    find_coverage,
    parse_variant,
    scheduled,
    train_and_evaluate,
)

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

DEMO = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"


@dataclass
class BenchmarkConfig:
    """Settings of the benchmark."""

    output_dir: Path
    """Folder for the runs, `results.json`, `table.md` and `figure.png`. Each run has a contact sheet `renders.jpg`."""
    scenes: tuple[Path, ...] = (DEMO,)
    """Transforms files with few training photos and some held-out ones."""
    fixers: tuple[Fixer, ...] = ("oracle", "identity", "embedded")
    """The fixers to use. Runs without fixes are made in any case, before those with fixes."""
    schedules: tuple[Schedule, ...] = ("none", "published", "ours")
    """The schedules to use."""
    variants: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Other settings to measure, each as a column of its own: a name, `=` and options that are added to `ns-train
    difix3d-mini`, for example "weaker=--pipeline.difix.strength 0.5". The options may begin with another method, such
    as `difix3d-mini-oracle`."""
    steps: int = 1600
    """Length of every run."""
    seeds: tuple[int, ...] = (42,)
    """Every run is made with each seed, and the table has means: short runs on few photos depend much on the seed."""
    jobs: int = 1
    """Number of runs at a time. Each uses one CPU core, and gives the same result for any number."""
    coverage_dir: Path | None = None
    """Folder for the masks of covered pixels and their contact sheets, which other output folders can use again;
    `coverage` in the output folder if not given."""
    coverage_steps: int = 1500
    """Length of the training on all photos of a scene, whose depth decides what is covered."""
    vgg_weights: Path | None = None
    """VGG-16, see `ns-difix train --help`. With it, the perceptual distance of raw and enhanced renders is measured."""
    again: bool = False
    """Whether to repeat finished runs of these scenes and settings, for example with a new network."""


def settings_of(config: BenchmarkConfig) -> list[Setting]:
    """All settings to train, the quickest first.

    Raises:
        SystemExit: a variant has no name of its own.
    """
    settings = [scheduled("none")] if "none" in config.schedules else []
    schedules: list[Schedule] = [schedule for schedule in config.schedules if schedule != "none"]
    settings += [scheduled(schedule, fixer) for fixer in config.fixers for schedule in schedules]
    variants = [parse_variant(text) for text in config.variants]
    names = [*TITLES, *(variant.name for variant in variants)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SystemExit(f"give each of --variants a name of its own: {', '.join(twice)} is used twice.")
    return settings + variants


def runs_of(config: BenchmarkConfig) -> list[Run]:
    """All training runs.

    Raises:
        SystemExit: two runs would be written to one folder.
    """
    settings = settings_of(config)
    scenes = dict.fromkeys(scene.resolve() for scene in config.scenes)
    seeds = dict.fromkeys(config.seeds)
    runs = [Run(scene, setting, seed, config.steps) for seed in seeds for setting in settings for scene in scenes]
    scene_of: dict[str, Path] = {}
    for run in runs:
        other = scene_of.setdefault(run.name, run.scene)
        if other != run.scene:
            raise SystemExit(f"{other} and {run.scene} have one name, {run.scene_name}: measure them in two folders.")
    return runs


def coverage_of(config: BenchmarkConfig) -> dict[Path, Coverage]:
    """The covered pixels of all splits, by resolved transforms file; what is missing is computed and printed.

    Raises:
        SystemExit: a command failed.
    """
    folder = config.coverage_dir or config.output_dir / "coverage"
    splits: dict[Path, list[Path]] = {}
    for split in dict.fromkeys(scene.resolve() for scene in config.scenes):
        splits.setdefault(split.parent, []).append(split)
    jobs = {scene: (files, folder / scene.name, config.coverage_steps) for scene, files in splits.items()}
    coverage: dict[Path, Coverage] = {}
    for scene, found in in_parallel(find_coverage, jobs, config.jobs):
        coverage |= zip(splits[scene], found, strict=True)
        for split, of_split in zip(splits[scene], found, strict=True):
            share = statistics.fmean(of_split.shares)
            print(f"{scene.name} {split.stem}: {share:.0%} of the held-out pixels are covered", flush=True)
    return coverage


def in_parallel(
    function: Callable[..., Result], calls: dict[Key, tuple[Any, ...]], num_jobs: int
) -> Iterator[tuple[Key, Result]]:
    """Calls a function several times, `num_jobs` at a time, and gives each key with its result when it is done.

    Args:
        function: what to call; it raises SystemExit if it fails.
        calls: arguments by key.
        num_jobs: number of calls at a time.

    Raises:
        SystemExit: a call failed. No others are begun, and those that have begun are finished first.
    """
    waiting = iter(calls.items())
    with ThreadPoolExecutor(num_jobs) as pool:

        def begin(number: int) -> dict[Future[Result], Key]:
            return {pool.submit(function, *arguments): key for key, arguments in islice(waiting, number)}

        running = begin(num_jobs)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            finished = {future: running.pop(future) for future in done}
            # A free thread would take the next call from a queue before a failure is seen here.
            if not any(future.exception() for future in done):
                running |= begin(len(done))
            for future, key in sorted(finished.items(), key=lambda item: item[0].exception() is not None):
                yield key, future.result()


def results_of(
    runs: list[Run], coverage: dict[Path, Coverage], config: BenchmarkConfig
) -> Iterator[tuple[Run, dict[str, float]]]:
    """Makes runs and gives each with its metrics when it is done; see `in_parallel`."""
    perceptual = None if config.vgg_weights is None else PerceptualDistance(config.vgg_weights)
    calls = {run: (run, config.output_dir, coverage[run.scene], config.again, perceptual) for run in runs}
    return in_parallel(train_and_evaluate, calls, config.jobs)


def main(config: BenchmarkConfig) -> None:
    """Makes the missing runs and prints the table; exits with code 1 if a scene is harmed."""
    missing = [str(scene) for scene in config.scenes if not scene.is_file()]
    if missing:
        raise SystemExit(f"no such transforms file: {', '.join(missing)}.")
    runs = runs_of(config)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the runs use the other cores
    coverage = coverage_of(config)
    results = read_results(config.output_dir)
    for number, (run, metrics) in enumerate(results_of(runs, coverage, config), 1):
        results.setdefault(run.scene_name, {}).setdefault(run.setting.name, {})[str(run.seed)] = metrics
        write_report(results, config.output_dir)
        title = f"{run.scene_name}, {title_of(run.setting.name)}, seed {run.seed}"
        print(f"[{number}/{len(runs)}] {title}: {cell(metrics)}, covered {cell(metrics, COVERED)}", flush=True)
    print(f"\n{(config.output_dir / 'table.md').read_text()}")
    print(f"PSNR (dB) / SSIM / LPIPS on held-out photos, {config.steps} steps, means and deviations over the seeds.")
    failures = failed_expectations(means(results))
    print("\n".join(failures) or "No scene is harmed, as far as it was measured.")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
