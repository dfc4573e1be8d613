"""Measures difix3d-nerfacto on held-out photos at a size that a CPU can train. Run by hand:

python tests/benchmarks/nerfacto.py --output-dir nerfacto

Each variant is trained by `ns-train` with a small field: nerfacto itself, and difix3d-nerfacto without fixes, with
the identity (which returns renders unchanged), with the embedded network, and with an oracle that knows the photos of
the targets (`oracle_fixer.py`). `ns-eval` or `ns-difix evaluate` measures them. Finished runs stay when the command is
repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

HERE = Path(__file__).parent
DEMO = HERE.parent / "scenes" / "banana" / "transforms_biased3.json"
Variant = Literal["nerfacto", "no-fixes", "identity", "embedded", "oracle"]
TITLES: dict[Variant, str] = {
    "nerfacto": "nerfacto",
    "no-fixes": "difix3d-nerfacto, no fixes",
    "identity": "identity",
    "embedded": "embedded network",
    "oracle": "oracle",
}
SMALL = (
    *("--pipeline.datamanager.train-num-rays-per-batch", "256"),
    *("--pipeline.model.implementation", "torch", "--pipeline.model.eval-num-rays-per-chunk", "1024"),
    *(
        "--pipeline.model.num-levels",
        "8",
        "--pipeline.model.log2-hashmap-size",
        "14",
        "--pipeline.model.max-res",
        "512",
    ),
    *("--pipeline.model.hidden-dim", "32", "--pipeline.model.hidden-dim-color", "32"),
    *("--pipeline.model.num-proposal-samples-per-ray", "32", "16", "--pipeline.model.num-nerf-samples-per-ray", "16"),
    # The oracle recognises photos by their poses, and three photos are too few to correct poses by.
    *("--pipeline.model.camera-optimizer.mode", "off"),
)
"""Options of all variants."""
OPTIONS: dict[Variant, tuple[str, ...]] = {
    "nerfacto": (),
    "no-fixes": ("--pipeline.fix-novel-views", "False"),
    "identity": ("--pipeline.difix.model", "identity"),
    "embedded": ("--pipeline.difix.model", "embedded"),
    "oracle": ("--pipeline.evaluate-enhanced", "False"),
}


@dataclass
class BenchmarkConfig:
    """Settings of the benchmark."""

    output_dir: Path
    """Folder for the runs and `results.json`."""
    scene: Path = DEMO
    """Transforms file with few training photos and some held-out ones."""
    scale: float = 0.2
    """Factor on the size of the photos."""
    steps: int = 600
    """Length of every run."""
    fix_steps: tuple[int, ...] = (150, 250, 350, 450)
    """Steps before which novel views are fixed."""
    seeds: tuple[int, ...] = (42,)
    """Every run is made with each seed."""
    variants: tuple[Variant, ...] = tuple(TITLES)
    """What to train."""
    min_accumulation: float = 0.5
    """Coverage from which on pixels of fixed views teach."""


def train_and_evaluate(config: BenchmarkConfig, variant: Variant, seed: int) -> dict[str, float]:
    """Trains and evaluates a variant, unless it is finished; returns PSNR and SSIM of renders and enhanced renders.

    Raises:
        SystemExit: a command failed.
    """
    folder = (config.output_dir / variant / f"seed-{seed}").resolve()
    done = folder / "metrics.json"
    if done.exists():
        return json.loads(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts again
    folder.mkdir(parents=True)
    method = {"nerfacto": "nerfacto", "oracle": "difix3d-nerfacto-oracle"}.get(variant, "difix3d-nerfacto")
    fixes = variant not in ("nerfacto", "no-fixes")
    loop = (
        *("--pipeline.fix-steps", *map(str, config.fix_steps), "--pipeline.planned-num-iterations", "0"),
        *("--pipeline.min-accumulation", str(config.min_accumulation)),
    )
    train = [
        *("ns-train", method, "--data", str(config.scene.resolve()), "--vis", "tensorboard"),
        *("--output-dir", str(folder), "--experiment-name", "run", "--timestamp", "run"),
        *("--max-num-iterations", str(config.steps), "--machine.seed", str(seed), "--machine.device-type", "cpu"),
        *("--steps-per-eval-image", "0", "--steps-per-eval-batch", "0", "--steps-per-eval-all-images", "0"),
        *("--pipeline.datamanager.camera-res-scale-factor", str(config.scale)),
        *SMALL,
        *OPTIONS[variant],
        *(loop if fixes else ()),
    ]
    loaded = ("--load-config", str(folder / "run" / method / "run" / "config.yml"))
    measured = folder / "evaluation"
    evaluate = ["ns-eval", *loaded, "--output-path", str(measured / "eval.json")]
    if variant == "nerfacto":
        evaluate = ["ns-difix", "evaluate", *loaded, "--output-dir", str(measured), "--num-frames", "0"]
        evaluate += ["--model", "embedded"]
    for command in (train, evaluate):
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(
                command, env=_environment(config.output_dir), stdout=log, stderr=subprocess.STDOUT
            ).returncode
        if code != 0:
            raise SystemExit(f"{command[0]} failed with exit code {code}: see {folder / 'log.txt'}.")
    metrics = _metrics_in(measured)
    done.write_text(json.dumps(metrics))
    return metrics


def _metrics_in(folder: Path) -> dict[str, float]:
    """PSNR and SSIM in the output of `ns-eval` or of `ns-difix evaluate`."""
    if (file := folder / "eval.json").exists():
        results = json.loads(file.read_text())["results"]
        names = (f"{metric}{suffix}" for suffix in ("", "_enhanced") for metric in ("psnr", "ssim"))
        return {name: results[name] for name in names if name in results}
    mean = json.loads((folder / "metrics.json").read_text())["mean"]
    suffixes = {"raw": "", "enhanced": "_enhanced"}
    return {f"{name}{suffixes[kind]}": mean[kind][name] for kind in suffixes for name in ("psnr", "ssim")}


def _environment(output_dir: Path) -> dict[str, str]:
    methods = os.environ.get("NERFSTUDIO_METHOD_CONFIGS", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "NERFSTUDIO_METHOD_CONFIGS": f"difix3d-nerfacto-oracle=oracle_fixer:difix3d_nerfacto_oracle,{methods}".rstrip(
            ","
        ),
        "TORCH_HOME": str(_stand_in_alexnet(output_dir.resolve() / "torch")),
        "COLUMNS": "200",
    }


def _stand_in_alexnet(folder: Path) -> Path:
    """A folder for torch's downloads that has an AlexNet of random weights, without which nerfacto starts only online.

    Only its LPIPS uses the weights, and LPIPS is not reported here.
    """
    import torch
    from torchvision.models import AlexNet_Weights, alexnet

    file = folder / "hub" / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(alexnet().state_dict(), file)
    return folder


def main(config: BenchmarkConfig) -> None:
    """Makes the missing runs, and prints and writes the means over the seeds."""
    results: dict[str, dict[str, float]] = {}
    for variant in config.variants:
        found = [train_and_evaluate(config, variant, seed) for seed in config.seeds]
        results[variant] = {name: sum(metrics[name] for metrics in found) / len(found) for name in found[0]}
        means = results[variant]
        cells = [f"{means['psnr']:.2f} / {means['ssim']:.3f}"]
        if "psnr_enhanced" in means:
            cells.append(f"{means['psnr_enhanced']:.2f} / {means['ssim_enhanced']:.3f}")
        print(f"{TITLES[variant]}: {', enhanced '.join(cells)}", flush=True)
        (config.output_dir / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
