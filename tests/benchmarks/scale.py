"""Time and memory by number of views, Gaussians and pixels. Run by hand; it takes minutes to an hour on a CPU:

python tests/benchmarks/scale.py --output-dir scale --photos tests/scenes/banana/images

A scene of 500 photos at 1920 x 1080 (synthetic poses, repeated real photos) is opened as `ns-train difix3d` opens it. A
fix of 2000 novel views fills the bank, with photos instead of the network's results. Views are drawn for training, a
checkpoint is saved, and a second run resumes from it. Training steps and the network are measured with several numbers
of Gaussians and pixels. Each measurement runs in its own process, and repeating the command skips finished ones. Times
are processor time, which other programs on the machine affect little; with OMP_NUM_THREADS=1 and NUMBA_NUM_THREADS=1
they are those of one core. The figures are written to `scale.json`, `scale.md` and `scale.png`.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from scale_figure import draw_figure
from scale_scene import make_scene

Figures = dict[str, float]

SEARCHED_PHOTOS = (500, 5000)
"""Numbers of photos among which references are searched."""
SMALL_SPLAT = (500, 0.3)
"""Number of Gaussians and side of their cube, where the content of renders does not matter."""


@dataclass
class ScaleConfig:
    """Settings of the benchmark."""

    output_dir: Path
    """Folder for scenes, runs, `scale.json`, `scale.md` and `scale.png`; it needs about 8 GB for the largest bank."""
    photos: Path
    """A folder of real photos."""
    num_cameras: int = 500
    """Number of training photos."""
    width: int = 1920
    """Width of the photos and the novel views."""
    height: int = 1080
    """Height of the photos and the novel views."""
    num_views: tuple[int, ...] = (50, 200, 500, 2000)
    """Numbers of novel views in the bank, and in the search for references."""
    num_gaussians: tuple[int, ...] = (5_000, 20_000, 100_000, 400_000)
    """Numbers of Gaussians in training steps at 640 x 360."""
    shares_of_size: tuple[float, ...] = (0.22, 0.33, 0.5, 0.7, 1.0)
    """Sizes of images in training steps with 20 000 Gaussians and in the network, as shares of width and height."""
    max_memory_gb: float = 4.0
    """`--pipeline.datamanager.bank.max-memory-gb`."""
    bank_share: float = 1.0
    """Size of the photos and views in measurements of the bank, as a share of width and height, to save time. The
    memory of the bank is scaled with the number of pixels."""
    only: tuple[str, ...] = ()
    """Names of measurements, such as `bank 50`, or of kinds, such as `search`; empty for all."""
    again: bool = False
    """Whether to repeat finished measurements."""
    keep: bool = False
    """Whether to keep the folders of the runs."""


class Meter:
    """Measures the processor time and the peak memory of the process, for one piece of work after another.

    Attributes:
        figures: `NAME_s` in seconds and `NAME_gb` of all measured work.
    """

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measures the work done inside."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        started = time.process_time()
        yield
        self.figures[f"{name}_s"] = time.process_time() - started
        self.figures[f"{name}_gb"] = _memory("VmHWM")


def _memory(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(f"{what}:"))


def make_trainer(
    config: ScaleConfig, scene: Path, run: str, num_gaussians: int, spread: float = 2.0, load_dir: Path | None = None
) -> Any:
    """The config of a trainer like that of `ns-train difix3d`."""
    from nerfstudio.configs.method_configs import all_methods

    trainer = deepcopy(all_methods["difix3d"])
    trainer.output_dir, trainer.experiment_name, trainer.timestamp = config.output_dir / "runs", "scale", run
    trainer.vis, trainer.load_dir, trainer.max_num_iterations = "tensorboard", load_dir, 30_000
    pipeline = trainer.pipeline
    pipeline.datamanager.data = pipeline.datamanager.dataparser.data = scene
    pipeline.datamanager.dataparser.downscale_factor = 1
    pipeline.datamanager.bank.max_memory_gb = config.max_memory_gb * config.bank_share**2
    pipeline.model.random_init, pipeline.model.num_random, pipeline.model.random_scale = True, num_gaussians, spread
    pipeline.model.num_downscales, pipeline.model.sh_degree_interval = 0, 1
    pipeline.difix.model = "embedded"
    pipeline.targets.kind = "random"
    # Photos replace the fixed views and must pass unchanged, whatever the Gaussians look like.
    pipeline.reliability.test = pipeline.trust.check = pipeline.confidence.weigh = pipeline.match_colors = False
    pipeline.min_accumulation = 0.0
    return trainer


def bank_scene(config: ScaleConfig) -> Path:
    """The scene with all photos."""
    size = round(config.width * config.bank_share), round(config.height * config.bank_share)
    return make_scene(config.output_dir, config.photos, config.num_cameras, *size)


def train(trainer: Any, steps: range) -> float:
    """Makes training steps as nerfstudio does and returns the median processor time of a step, in seconds."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation as Location

    seconds = []
    for step in steps:
        started = time.process_time()
        for location in (Location.BEFORE_TRAIN_ITERATION, Location.AFTER_TRAIN_ITERATION):
            if location == Location.AFTER_TRAIN_ITERATION:
                trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location)
        seconds.append(time.process_time() - started)
    return sorted(seconds)[len(seconds) // 2]


def measure_bank(config: ScaleConfig, num_views: int) -> Figures:
    """Opens the scene, fixes novel views, draws from the bank, trains, and saves a checkpoint."""
    from difix3d_ns.fixing.lazy_fixer import LazyFixer

    meter = Meter()
    scene = bank_scene(config)
    run = f"bank-{num_views}"
    trainer_config = make_trainer(config, scene, run, *SMALL_SPLAT)
    trainer_config.pipeline.targets.num_views = num_views
    shutil.rmtree(trainer_config.get_base_dir(), ignore_errors=True)
    meter.figures["start_gb"] = _memory("VmRSS")
    with meter("open"):
        trainer = trainer_config.setup(local_rank=0, world_size=1)
        trainer.setup()
    from nerfstudio.utils import writer  # fails if it is the first import of nerfstudio

    datamanager, bank = trainer.pipeline.datamanager, trainer.pipeline.datamanager.pseudo_views
    with meter("photos"):
        datamanager.next_train(0)
    # Rendering and the network would take hours and are replaced, but their images have the full size.
    model = trainer.pipeline.difix3d_model
    with (
        mock.patch.object(LazyFixer, "clean", lambda self, renders, references, *_, **__: list(references)),
        mock.patch.object(model, "get_outputs_for_camera", _blank),
    ):
        for fix in range(3 if num_views <= 50 else 1):  # shows whether memory grows from fix to fix
            with meter(f"fix_{fix + 1}"):
                trainer.pipeline.loop.fix(5 + fix)
                writer.EVENT_STORAGE.clear()  # in training, the trainer writes these images
            meter.figures[f"after_fix_{fix + 1}_gb"] = _memory("VmRSS")
    base = trainer_config.get_base_dir()
    newest = sorted((base / "pseudo_views").glob("step-*"))[-1]
    meter.figures |= {
        "bound_gb": config.max_memory_gb * config.bank_share**2,
        "megapixels": config.width * config.height * config.bank_share**2 / 1e6,
        "pictures_gb": num_views * config.width * config.height * config.bank_share**2 * 4 / 1e9,
        "held_gb": bank.bytes_held / 1e9,
        "disk_gb": sum(file.stat().st_size for file in newest.iterdir()) / 1e9,
    }
    datamanager.config.pseudo_view_probability = 1.0
    with meter("draws"):
        drawn = [_seconds(lambda step=step: datamanager.next_train(step)) for step in range(10, 50)]
    meter.figures["draw_s"] = sum(drawn) / len(drawn)
    waiting = [view for view in bank.views if view.held is None]
    if waiting:
        meter.figures["draw_from_disk_s"] = sum(_seconds(view.load) for view in waiting[:20]) / 20
    datamanager.config.pseudo_view_probability = 0.0
    meter.figures["step_of_photos_s"] = train(trainer, range(50, 56))
    datamanager.config.pseudo_view_probability = 0.3
    with meter("training"):
        meter.figures["step_s"] = train(trainer, range(56, 70))
    trainer.save_checkpoint(70)
    (checkpoint,) = (base / "nerfstudio_models").glob("*.ckpt")
    meter.figures["checkpoint_mb"] = checkpoint.stat().st_size / 1e6
    return meter.figures


def measure_resume(config: ScaleConfig, num_views: int) -> Figures:
    """Resumes from the checkpoint that `measure_bank` saved."""
    meter = Meter()
    scene = bank_scene(config)
    first = make_trainer(config, scene, f"bank-{num_views}", *SMALL_SPLAT).get_base_dir()
    trainer_config = make_trainer(config, scene, f"resumed-{num_views}", *SMALL_SPLAT, first / "nerfstudio_models")
    trainer_config.pipeline.targets.num_views = num_views
    with meter("set_up"):
        trainer = trainer_config.setup(local_rank=0, world_size=1)
        trainer.setup()
    bank = trainer.pipeline.datamanager.pseudo_views
    from difix3d_ns.pseudo_views.bank import PseudoViewBank

    with meter("restore"):
        PseudoViewBank(bank.config).restore(first / "pseudo_views", 70)
    meter.figures |= {"views": len(bank), "held_gb": bank.bytes_held / 1e9}
    for base in (first, trainer_config.get_base_dir()):
        if not config.keep:
            shutil.rmtree(base, ignore_errors=True)
    return meter.figures


def measure_search(config: ScaleConfig, num_views: int, num_photos: int) -> Figures:
    """Times the walk of novel views and the choice of their references among photos, the fastest of three."""
    from nerfstudio.cameras.cameras import Cameras

    from difix3d_ns.cameras.generated_paths import looking_at, random_poses
    from difix3d_ns.cameras.poses import with_nearest_intrinsics
    from difix3d_ns.fixing.references import ReferenceConfig, choose_references
    from difix3d_ns.novel_views.walk import NovelViewWalk

    generator = torch.Generator().manual_seed(0)
    angles = 2 * math.pi * torch.arange(num_photos) / num_photos
    centers = torch.stack([2 * angles.cos(), 2 * angles.sin(), 0.5 + 0.2 * torch.randn(num_photos)], dim=-1)
    poses = looking_at(centers, torch.zeros(1, 3), torch.tensor([0.0, 0.0, 1.0]))
    sides = {"width": torch.full((num_photos, 1), config.width), "height": torch.full((num_photos, 1), config.height)}
    lens = {"fx": 0.8 * config.width, "fy": 0.8 * config.width, "cx": config.width / 2, "cy": config.height / 2}
    photos = Cameras(poses, **{name: torch.full((num_photos, 1), value) for name, value in lens.items()}, **sides)
    means, opacities = 0.5 * torch.randn(200_000, 3, generator=generator), torch.rand(200_000, generator=generator)
    figures: Figures = {}
    started = time.process_time()
    walk = NovelViewWalk(with_nearest_intrinsics(random_poses(poses, num_views), photos), poses, 0.5)
    walk.advance()
    cameras = walk.cameras()
    figures["walk_s"] = time.process_time() - started
    for choice in ("pose", "overlap"):
        reference = ReferenceConfig(choice=choice)

        def search(reference: ReferenceConfig = reference) -> object:
            return choose_references(cameras, photos, reference, 1.0, means, opacities)

        figures[f"{choice}_s"] = min(_seconds(search) for _ in range(3))
    return figures


def measure_training(config: ScaleConfig, num_gaussians: int, width: int, height: int) -> Figures:
    """Measures training steps with some number of Gaussians and image size, in a scene of eight photos."""
    meter = Meter()
    scene = make_scene(config.output_dir, config.photos, 8, width, height)
    trainer_config = make_trainer(config, scene, f"steps-{num_gaussians}-{width}x{height}", num_gaussians)
    trainer = trainer_config.setup(local_rank=0, world_size=1)
    trainer.setup()
    train(trainer, range(0, 4))  # compiles everything, and reaches the full degree of harmonics
    with meter("training"):
        meter.figures["step_s"] = train(trainer, range(4, 11))
    trainer.save_checkpoint(11)
    (checkpoint,) = (trainer_config.get_base_dir() / "nerfstudio_models").glob("*.ckpt")
    meter.figures["checkpoint_mb"] = checkpoint.stat().st_size / 1e6
    shutil.rmtree(trainer_config.get_base_dir())
    return meter.figures


def measure_network(config: ScaleConfig, width: int, height: int) -> Figures:
    """Measures the embedded network on one view with a new reference, with default settings."""
    from difix3d_ns.fixing.fixer import DifixConfig
    from difix3d_ns.fixing.lazy_fixer import LazyFixer

    fixer = LazyFixer(DifixConfig(model="embedded"), "cpu")
    images = torch.rand((3, 2, height, width, 3), generator=torch.Generator().manual_seed(0))
    fixer.clean([images[0, 0, :64, :64]], [images[0, 1, :64, :64]])
    meter = Meter()
    with meter("network"):
        seconds = [_seconds(lambda pair=pair: fixer.clean([pair[0]], [pair[1]])) for pair in images[:2]]
    return {**meter.figures, "network_s": min(seconds)}


def _blank(camera: Any) -> dict[str, torch.Tensor]:
    height, width = int(camera.height), int(camera.width)
    return {"rgb": torch.zeros(height, width, 3), "accumulation": torch.ones(height, width, 1)}


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measurements(config: ScaleConfig) -> dict[str, tuple]:
    """Function and arguments of each measurement by its name, the quickest first."""
    sizes = [
        (round(config.width * share / 8) * 8, round(config.height * share / 8) * 8) for share in config.shares_of_size
    ]
    largest = max(config.num_views)
    found: dict[str, tuple] = {
        **{f"search {n} of {SEARCHED_PHOTOS[0]}": (measure_search, n, SEARCHED_PHOTOS[0]) for n in config.num_views},
        f"search {largest} of {SEARCHED_PHOTOS[1]}": (measure_search, largest, SEARCHED_PHOTOS[1]),
        **{f"gaussians {n}": (measure_training, n, 640, 360) for n in config.num_gaussians},
        **{f"pixels {w}x{h}": (measure_training, 20_000, w, h) for w, h in sizes},
        **{f"network {w}x{h}": (measure_network, w, h) for w, h in sizes},
    }
    for n in config.num_views:
        found |= {f"bank {n}": (measure_bank, n), f"resume {n}": (measure_resume, n)}
    return found


def main(config: ScaleConfig) -> None:
    """Makes the missing measurements and writes the report."""
    config.output_dir = config.output_dir.resolve()
    config.output_dir.mkdir(parents=True, exist_ok=True)
    file = config.output_dir / "scale.json"
    results: dict[str, Figures] = json.loads(file.read_text()) if file.exists() else {}
    for name, (measure, *arguments) in measurements(config).items():
        if config.only and not any(f"{name} ".startswith(f"{part} ") for part in config.only):
            continue
        if name in results and not config.again:
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            results[name] = process.submit(measure, config, *arguments).result()
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in results[name].items()), flush=True)
    lines = [
        f"| {name} | " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()) + " |" for name, found in results.items()
    ]
    (config.output_dir / "scale.md").write_text("\n".join(["| measured | figures |", "|---|---|", *lines]) + "\n")
    draw_figure(results, config.output_dir / "scale.png")


if __name__ == "__main__":
    main(tyro.cli(ScaleConfig))
