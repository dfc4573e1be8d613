"""Seconds per fixed novel view by stage, for the fixes of a short training run.

The stages are functions and methods of the package, timed from outside while `NovelViewLoop.fix` runs. Time spent in a
nested stage counts only for the nested one. On the CPU, processor time is measured, which other programs affect little;
with CUDA, wall-clock time.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.step_times import ManyPointsConfig, synchronize, train_step
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import writer

import difix3d_ns.novel_views.progressive_update
import difix3d_ns.vetting.vet
from difix3d_ns.novel_views.progressive_update import ProgressiveUpdate
from difix3d_ns.pseudo_views.writer import SetWriter

TEST = "test at photos"
WHOLE = (TEST, "to tensorboard")
"""Stages whose time includes that of the stages nested in them."""
REST = "everything else"
"""Time of a fix outside all other stages."""


class Stopwatch:
    """Seconds of named stages that may be nested.

    Args:
        device: synchronized when a stage begins or ends.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._open: list[tuple[str, float]] = []
        self.seconds: dict[str, float] = defaultdict(float)

    def _now(self) -> float:
        synchronize(self._device)
        return time.process_time() if self._device == "cpu" else time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage, without nested stages unless it is one of `WHOLE`."""
        if self._open and self._open[0][0] in WHOLE:
            yield
            return
        now = self._now()
        if self._open:
            outer, since = self._open[-1]
            self.seconds[outer] += now - since
        # A stage of `WHOLE` becomes the only open one, so stages nested in it are not counted.
        whole, held = name in WHOLE, self._open
        self._open = [(name, now)] if whole else [*held, (name, now)]
        try:
            yield
        finally:
            now = self._now()
            self.seconds[name] += now - self._open[-1][1]
            self._open = [*held[:-1], (held[-1][0], now)] if held else []

    def timed(self, function: Callable, name: str) -> Callable:
        """Wraps a function so that its time is added to a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)  # training does not wait for other threads
            with self.stage(name):
                return function(*args, **kwargs)

        return run


def stages(pipeline: Any) -> list[tuple[Any, str, str]]:
    """Owner, name and stage of each timed function or method, in the order in which a fix calls them."""
    network = pipeline.fixer.load().network
    return [
        (ProgressiveUpdate, "test_fixer", TEST),
        (pipeline.enhancer, "choose_references", "reference search"),
        (difix3d_ns.novel_views.progressive_update, "render_novel_views", "rendering"),
        (pipeline.enhancer, "aligned_references", "aligned references"),
        (pipeline.datamanager, "training_photos", "reference photos"),
        (pipeline.fixer, "clean", "images in and out"),
        (network, "encode", "encoder, renders"),
        (network, "_encode_references", "encoder, references"),
        (network.unet, "forward", "UNet"),
        (network, "decode", "decoder"),
        (difix3d_ns.vetting.vet, "reasons_to_reject", "trust"),
        (difix3d_ns.vetting.vet, "match_colors", "colours"),
        (difix3d_ns.vetting.vet, "pixel_confidence", "confidence"),
        (difix3d_ns.vetting.vet, "to_bytes", "to eight bit"),
        (SetWriter, "write", "PNG files"),
        (difix3d_ns.novel_views.progressive_update, "panels", "to tensorboard"),
        (writer, "write_out_storage", "to tensorboard"),
    ]


def fix_config(scene: Path, folder: Path, num_gaussians: int, scale: float, device: str, model: str) -> TrainerConfig:
    """A training run of difix3d-mini, in which the benchmark starts the fixes.

    Args:
        scene: in nerfstudio's format, with start points.
        folder: for the run.
        num_gaussians: number of Gaussians at the start.
        scale: factor on the photos' sizes.
        device: `cpu` or `cuda`.
        model: the network, a value of `--pipeline.difix.model`.
    """
    config = deepcopy(all_methods["difix3d-mini"])
    config.pipeline.datamanager.dataparser = ManyPointsConfig(
        num_points=num_gaussians, load_3D_points=True, downscale_factor=1
    )
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.camera_res_scale_factor = scale
    config.pipeline.difix.model = model
    config.machine.device_type = device
    config.output_dir, config.timestamp, config.vis = folder, "fixes", "tensorboard"
    return config


def measure_fixes(config: TrainerConfig, num_steps: int, num_fixes: int) -> dict[str, Any]:
    """Seconds per fixed view by stage.

    Args:
        config: the result of `fix_config`.
        num_steps: training steps before the first fix.
        num_fixes: number of timed fixes after the first, which also encodes the photos; medians are reported.

    Returns:
        `first` and `later`, the seconds per view by stage of the first fix, without loading the network, and of the
        later ones; `num_views`, the number of views; `num_rejected`, the number that the last fix rejected; and
        `seconds`, the median time of a whole later fix.
    """
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    for step in range(num_steps):
        with writer.TimeWriter(
            writer, writer.EventName.ITER_TRAIN_TIME, step=step
        ):  # as nerfstudio's training loop does
            train_step(trainer, step)
    writer.write_out_storage()
    pipeline: Any = trainer.pipeline
    measured: list[dict[str, float]] = []
    with ExitStack() as patches:
        watches: list[Stopwatch] = []
        for owner, name, stage in stages(pipeline):
            original = getattr(owner, name)

            def timed(*args: Any, original: Callable = original, stage: str = stage, **kwargs: Any) -> Any:
                return watches[-1].timed(original, stage)(*args, **kwargs)

            patches.enter_context(patch.object(owner, name, timed))
        for number in range(num_fixes + 1):
            watches.append(Stopwatch(config.machine.device_type))
            with watches[-1].stage(REST):
                pipeline.loop.fix(num_steps + number)
                writer.write_out_storage()
            measured.append(dict(watches[-1].seconds))
    newest = pipeline.datamanager.pseudo_views.newest
    num_views = len(newest.views) + len(newest.rejected)
    return {
        "first": per_view(measured[:1], num_views),
        "later": per_view(measured[1:], num_views),
        "num_views": num_views,
        "num_rejected": len(newest.rejected),
        "seconds": statistics.median(sum(stages.values()) for stages in measured[1:]),
    }


def per_view(measured: list[dict[str, float]], num_views: int) -> dict[str, float]:
    """Median seconds per view by stage; a stage that a fix does not reach counts as 0."""
    names = list(dict.fromkeys(name for stages in measured for name in stages))
    return {name: statistics.median(stages.get(name, 0.0) for stages in measured) / num_views for name in names}
