"""The training runs of the benchmark of the progressive update: their settings, and how they are made and measured."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.progressive_coverage import Coverage, coverage_file, current_coverage, read_coverage
from benchmarks.progressive_measure import PerceptualDistance, covered_metrics, draw_renders

from difix3d_ns.difix.resolve import EMBEDDED_MODEL

HERE = Path(__file__).parent

METRICS = ("psnr", "ssim", "lpips")

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
METHOD, ORACLE = "difix3d-mini", "difix3d-mini-oracle"
"""The registered methods to train."""


@dataclass(frozen=True)
class Setting:
    """What is trained: one column of the table."""

    name: str
    """Its name in `results.json`, in the table and in paths of runs."""
    options: tuple[str, ...] = ()
    """Options of `ns-train`."""
    method: str = METHOD
    """The method to train."""

    @property
    def uses_network(self) -> bool:
        """Whether its results may depend on the embedded network."""
        unused = ("identity" in self.options, self.method == ORACLE, self.name == "none")
        return not any(unused)


def scheduled(schedule: Schedule, fixer: Fixer | None = None) -> Setting:
    """A schedule of fixes with a fixer; `none` takes no fixer."""
    name = schedule if fixer is None else f"{schedule}-{fixer}"
    options = (*OPTIONS[schedule], *(IDENTITY if fixer == "identity" else ()))
    return Setting(name, options, ORACLE if fixer == "oracle" else METHOD)


def parse_variant(text: str) -> Setting:
    """A setting given as `NAME=[METHOD] OPTIONS`, with options of `ns-train`.

    Raises:
        SystemExit: the text has another form.
    """
    name, equals, options = text.partition("=")
    if not equals or not re.fullmatch(r"\w[\w.+-]*", name):
        raise SystemExit(
            f"--variants {text!r} is not of the form NAME=OPTIONS, such as 'weaker=--pipeline.difix.strength 0.5': "
            "NAME may contain letters, digits and . _ + -"
        )
    words = shlex.split(options)
    named = bool(words) and not words[0].startswith("-")
    return Setting(name, tuple(words[named:]), words[0] if named else METHOD)


@dataclass(frozen=True)
class Run:
    """One training run."""

    scene: Path
    """The transforms file of a scene or of a split of it."""
    setting: Setting
    """What is trained."""
    seed: int
    """Seed of the weights and of the order of the photos."""
    steps: int
    """Number of training steps."""

    @property
    def scene_name(self) -> str:
        """Name of the scene's folder and split, such as `banana biased3`."""
        return f"{self.scene.parent.name} {self.scene.stem.removeprefix('transforms').strip('_')}".strip()

    @property
    def name(self) -> str:
        """Folder of the run, relative to the output folder."""
        return f"{self.scene_name.replace(' ', '-')}/{self.setting.name}/seed-{self.seed}"


def train_and_evaluate(
    run: Run, output_dir: Path, coverage: Coverage, again: bool = False, perceptual: PerceptualDistance | None = None
) -> dict[str, float]:
    """Trains and evaluates a run, as far as that is not done, and returns its metrics on the held-out photos.

    Args:
        run: the run.
        output_dir: folder of the benchmark.
        coverage: the covered pixels of the held-out photos.
        again: whether to repeat a finished run.
        perceptual: also measured if given.

    Raises:
        SystemExit: a command failed, or the finished run has other settings.
    """
    folder = (output_dir / run.name).resolve()
    described = {"steps": run.steps, "seed": run.seed, "options": [run.setting.method, *run.setting.options]}
    if run.setting.uses_network:
        described["network"] = embedded_network()
    evaluation, settings = folder / "eval.json", folder / "benchmark.json"
    if again or not evaluation.exists():
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts again
        folder.mkdir(parents=True)
        settings.write_text(json.dumps(described))
        call(
            [
                *("ns-train", run.setting.method, "--data", str(run.scene), "--vis", "tensorboard"),
                *("--output-dir", str(folder), "--experiment-name", "run", "--timestamp", "run"),
                *("--max-num-iterations", str(run.steps)),
                *("--machine.seed", str(run.seed)),
                *("--pipeline.datamanager.train-cameras-sampling-seed", str(run.seed)),
                *("--pipeline.evaluate-enhanced", str(run.setting.method != ORACLE)),
                *run.setting.options,
            ],
            folder / "log.txt",
        )
    elif not settings.exists() or json.loads(settings.read_text()) != described:
        raise SystemExit(
            f"{folder} contains a run with other settings or with another embedded network: "
            "choose another --output-dir or add --again."
        )
    return evaluate(run, folder, coverage, perceptual)


def evaluate(
    run: Run, folder: Path, coverage: Coverage, perceptual: PerceptualDistance | None = None
) -> dict[str, float]:
    """Evaluates a trained run, as far as that is not done with the same coverage, and draws its renders.

    Args:
        run: the run.
        folder: its folder, which gets `eval.json` by `ns-eval`, `pictures.json` and `renders.jpg`.
        coverage: the covered pixels of the held-out photos.
        perceptual: also measured if given.

    Returns:
        All metrics that have been measured.

    Raises:
        SystemExit: a command failed.
    """
    evaluation, of_pictures = folder / "eval.json", folder / "pictures.json"
    source = {"coverage": coverage.digest, "vgg": None if perceptual is None else perceptual.digest}
    saved = json.loads(of_pictures.read_text()) if of_pictures.exists() else {"source": {}}
    if any(saved["source"].get(name) != digest for name, digest in source.items() if digest is not None):
        pictures = folder / "pictures"
        shutil.rmtree(pictures, ignore_errors=True)
        trained = folder / "run" / run.setting.method / "run" / "config.yml"
        command = ["ns-eval", "--load-config", str(trained), "--output-path", str(evaluation)]
        call([*command, "--render-output-path", str(pictures)], folder / "log.txt")
        results = covered_metrics(pictures, coverage)
        if perceptual is not None:
            results |= perceptual.of_renders(pictures, coverage)
        draw_renders(pictures, coverage, f"{run.name}: photo, render (and enhanced)").save(
            folder / "renders.jpg", quality=90
        )
        saved = {"source": source, "results": results}
        of_pictures.write_text(json.dumps(saved))
        shutil.rmtree(pictures)
    return {**metrics_of(json.loads(evaluation.read_text())), **saved["results"]}


def find_coverage(splits: Sequence[Path], folder: Path, steps: int) -> list[Coverage]:
    """The coverage of splits of one scene, from an earlier call or from a training on all photos.

    Args:
        splits: transforms files in one folder.
        folder: folder for the coverage of the scene.
        steps: length of the training on all photos.

    Raises:
        SystemExit: it cannot be computed.
    """
    if any(current_coverage(folder, split, steps) is None for split in splits):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(HERE / "progressive_coverage.py"), "--output-dir", str(folder.resolve())]
        call([*command, "--steps", str(steps), "--splits", *map(str, splits)], folder / "log.txt")
    return [read_coverage(coverage_file(folder, split)) for split in splits]


def call(command: list[str], log_file: Path) -> None:
    """Runs a command on one thread, so that its result does not depend on what else runs.

    Args:
        command: the command, in which methods of this benchmark are known.
        log_file: file to which its output is appended.

    Raises:
        SystemExit: the command failed.
    """
    with log_file.open("a") as log:
        code = subprocess.run(command, env=_environment(), stdout=log, stderr=subprocess.STDOUT).returncode
    if code != 0:
        program = next(Path(word).name for word in command if word != sys.executable)
        raise SystemExit(f"{program} failed with exit code {code}: see {log_file}.")


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
        "NERFSTUDIO_METHOD_CONFIGS": f"{ORACLE}=oracle_fixer:difix3d_mini_oracle",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }


def metrics_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """PSNR, SSIM and, if available, LPIPS of renders and enhanced renders, from the output of `ns-eval`."""
    wanted = [f"{metric}{suffix}" for suffix in ("", "_enhanced") for metric in METRICS]
    return {name: evaluation["results"][name] for name in wanted if name in evaluation["results"]}
