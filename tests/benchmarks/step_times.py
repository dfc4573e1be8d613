"""Seconds per training step of difix3d compared with nerfstudio's splatfacto, in one process.

Splatfacto's pipeline, datamanager, model and trainer are nerfstudio's own. Without CUDA, its model uses this package's
rasterization instead of gsplat's kernels, and `.cuda()` does nothing, so any difference in time is caused by the
plugin. All training runs have the same settings, photos and start points. Before each round they get the same
Gaussians, random numbers and camera, so they do the same work, which their losses prove. In each round they take turns,
and each step is compared with splatfacto's step of the same round, so other load on the machine affects them equally.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models import splatfacto

from difix3d_ns.cameras.poses import camera_with_pose
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet
from difix3d_ns.rasterization import rasterization
from difix3d_ns.splats.gaussians import fill_between_points

BASE = "splatfacto"
WITHOUT_FIXES = "difix3d, no fixes"
PHOTO = "difix3d with fixed views, step of a photo"
PSEUDO_VIEW = "difix3d with fixed views, step of a fixed view"
MIXED = "difix3d with fixed views, steps as drawn"
NEVER = 10**9


@dataclass(frozen=True)
class Step:
    """One training step."""

    seconds: float
    """Wall-clock seconds."""
    work: float
    """The measure to compare: processor seconds, which other programs affect little; with CUDA, `seconds`."""
    loss: float


@dataclass
class ManyPointsConfig(NerfstudioDataParserConfig):
    """Settings of nerfstudio's dataparser with a given number of start points."""

    _target: type = field(default_factory=lambda: ManyPoints)
    num_points: int = 10_000
    """Number of start points; if the scene has fewer, more are placed between neighbouring ones."""


class ManyPoints(Nerfstudio):
    """nerfstudio's dataparser with a given number of start points."""

    config: ManyPointsConfig

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        parsed = super()._generate_dataparser_outputs(split)
        points, colors = parsed.metadata["points3D_xyz"], parsed.metadata["points3D_rgb"].float()
        generator = torch.Generator().manual_seed(0)
        points, colors = fill_between_points(points, colors, self.config.num_points, generator)
        parsed.metadata.update(points3D_xyz=points, points3D_rgb=colors)
        return parsed


def configs(scene: Path, folder: Path, num_gaussians: int, scale: float, device: str) -> dict[str, TrainerConfig]:
    """Configs of splatfacto and of difix3d without and with fixes, the same in all settings that they share.

    Args:
        scene: a transforms file with start points.
        folder: folder for the runs.
        num_gaussians: number of Gaussians, which does not change.
        scale: factor on the photos' sizes.
        device: `cpu` or `cuda`.
    """
    base = deepcopy(all_methods["splatfacto"])
    base.pipeline.datamanager.dataparser = ManyPointsConfig(
        num_points=num_gaussians, load_3D_points=True, downscale_factor=1
    )
    base.pipeline.datamanager.data = scene
    base.pipeline.datamanager.camera_res_scale_factor = scale
    model = base.pipeline.model
    # As after the first thousands of steps of a long run: full size, all harmonics, no splitting.
    model.num_downscales, model.sh_degree_interval, model.warmup_length = 0, 1, NEVER
    base.machine.device_type = device
    base.output_dir, base.timestamp, base.vis = folder, "run", "tensorboard"
    without = deepcopy(all_methods["difix3d"])
    for config in (without.pipeline.datamanager, without.pipeline.model):
        shared = base.pipeline.datamanager if config is without.pipeline.datamanager else model
        for name in (each.name for each in fields(shared) if each.name != "_target"):
            setattr(config, name, deepcopy(getattr(shared, name)))
    without.optimizers, without.machine = deepcopy(base.optimizers), deepcopy(base.machine)
    without.output_dir, without.timestamp, without.vis = folder, "without", "tensorboard"
    fixing = deepcopy(without)
    without.pipeline.fix_novel_views = False
    fixing.timestamp = "with"
    # The schedule's callback is installed, but no step of the benchmark reaches it.
    fixing.pipeline.fix_steps, fixing.pipeline.planned_num_iterations = (fixing.max_num_iterations - 1,), 0
    fixing.pipeline.difix.model = "embedded"
    return {BASE: base, WITHOUT_FIXES: without, PHOTO: fixing}


class NoLpips(torch.nn.Module):
    """Replaces LPIPS, which splatfacto only needs for evaluation and which is downloaded."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


@contextmanager
def plain_splatfacto(device: str) -> Iterator[None]:
    """A context in which splatfacto's own code runs offline and, with this package's rasterization, without CUDA."""
    with ExitStack() as patches:
        name = "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity"
        patches.enter_context(patch(name, NoLpips))
        if device == "cpu":
            patches.enter_context(patch.object(splatfacto, "rasterization", rasterization))
            patches.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self))
        yield


def photos_as_pseudo_views(trainer: Trainer, num_views: int) -> PseudoViewSet:
    """Pseudo views for a bank: the cameras and images of the photos in turn, with random confidence.

    Args:
        trainer: a trainer of difix3d.
        num_views: number of views.
    """
    datamanager: Any = trainer.pipeline.datamanager
    cameras, poses = datamanager.train_dataset.cameras, datamanager.train_camera_to_worlds
    generator = torch.Generator().manual_seed(0)
    views = []
    for target in range(num_views):
        index = target % len(poses)
        camera = camera_with_pose(cameras[index : index + 1], poses[index])
        image = datamanager.cached_train[index]["image"][..., :3].cpu()
        confidence = torch.randint(0, 256, (*image.shape[:2], 1), generator=generator, dtype=torch.uint8)
        views.append(PseudoView(camera, image, confidence, index, target, reliability=0.5))
    return PseudoViewSet(0, views)


def synchronize(device: str) -> None:
    """Waits until the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def train_step(trainer: Trainer, step: int) -> float:
    """Makes one training step with its callbacks, like nerfstudio's trainer, and returns the loss."""
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    loss, _, _ = trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    return loss.detach()  # type: ignore[return-value]


class Contest:
    """The training runs, which take turns.

    Args:
        configs: the result of the function `configs`.
        num_views: number of views in the bank of the run with fixes.
    """

    def __init__(self, configs: dict[str, TrainerConfig], num_views: int) -> None:
        self.device = configs[BASE].machine.device_type
        self._trainers: dict[str, Trainer] = {}
        for name, config in configs.items():
            self._trainers[name] = config.setup(local_rank=0, world_size=1)
            with plain_splatfacto(self.device):
                self._trainers[name].setup()
        self._trainers[PSEUDO_VIEW] = self._trainers[PHOTO]
        self._fixing: Any = self._trainers[PHOTO].pipeline.datamanager
        self.pseudo_view_probability = self._fixing.config.pseudo_view_probability
        self._num_photos = len(self._fixing.train_dataset)
        for trainer in self._trainers.values():
            _ = trainer.pipeline.datamanager.cached_train
        views = photos_as_pseudo_views(self._trainers[PHOTO], num_views)
        folder = self._trainers[PHOTO].base_dir / "pseudo_views"
        self._fixing.pseudo_views.add(views, folder)

    def train_base(self, num_steps: int) -> None:
        """Trains splatfacto for some steps, whose Gaussians all rounds use."""
        with plain_splatfacto(self.device):
            for step in range(num_steps):
                train_step(self._trainers[BASE], step)
        gaussians = self._trainers[BASE].pipeline.model.gauss_params
        self._gaussians = {name: values.detach().clone() for name, values in gaussians.items()}

    def round(self, step: int, order: list[str]) -> dict[str, Step]:
        """Makes a step of each run with the same camera and Gaussians, and returns the measurements."""
        # The camera is that of the fixed view that this step draws.
        self._fixing.config.pseudo_view_probability = 1.0
        index = self._fixing.next_train(step)[1]["pseudo_view"] % self._num_photos
        measured = {}
        for name in order:
            trainer = self._trainers[name]
            model: Any = trainer.pipeline.model
            with torch.no_grad():
                for part, values in self._gaussians.items():
                    model.gauss_params[part].copy_(values)
            trainer.pipeline.datamanager.train_unseen_cameras = [index, index]
            self._fixing.config.pseudo_view_probability = float(name == PSEUDO_VIEW)
            torch.manual_seed(step)
            with plain_splatfacto(self.device):
                synchronize(self.device)
                started, worked = time.perf_counter(), time.process_time()
                loss = train_step(trainer, step)
                synchronize(self.device)
                seconds, work = time.perf_counter() - started, time.process_time() - worked
                measured[name] = Step(seconds, work if self.device == "cpu" else seconds, float(loss))
        return measured


def median_with_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95% confidence interval from order statistics."""
    ordered = sorted(values)
    reach = 0.98 * len(ordered) ** 0.5
    low = max(0, int(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, int(len(ordered) / 2 + reach))
    return statistics.median(ordered), ordered[low], ordered[high]


def compare(rounds: list[dict[str, Step]], pseudo_view_probability: float) -> dict[str, Any]:
    """Seconds of each run's step, and by how much it is slower than splatfacto's.

    Args:
        rounds: results of `Contest.round`.
        pseudo_view_probability: share of steps that use a fixed view.

    Raises:
        SystemExit: splatfacto and difix3d have different losses for the same photo, so their work differs.
    """
    for losses in ([each[name].loss for name in (BASE, WITHOUT_FIXES, PHOTO)] for each in rounds):
        if max(losses) - min(losses) > 1e-3 * max(losses):
            raise SystemExit(f"the losses of the same step differ, {losses}: the runs do not do the same work.")
    rows: dict[str, Any] = {}
    for name in rounds[0]:
        ratio, low, high = median_with_interval([each[name].work / each[BASE].work - 1 for each in rounds])
        seconds = statistics.median(each[name].seconds for each in rounds)
        rows[name] = {"seconds": seconds, "overhead": ratio, "overhead_low": low, "overhead_high": high}
    share = pseudo_view_probability
    rows[MIXED] = {key: (1 - share) * rows[PHOTO][key] + share * rows[PSEUDO_VIEW][key] for key in rows[PSEUDO_VIEW]}
    return rows


def measure_steps(
    configs: dict[str, TrainerConfig], num_rounds: int, num_views: int, num_warm_up: int
) -> dict[str, Any]:
    """Seconds per training step of each run, measured as the module's docstring says.

    Args:
        configs: the result of the function `configs`.
        num_rounds: number of timed steps of each run.
        num_views: number of fixed views in the bank.
        num_warm_up: steps of splatfacto before the timed ones.
    """
    contest = Contest(configs, num_views)
    contest.train_base(num_warm_up)
    names = [BASE, WITHOUT_FIXES, PHOTO, PSEUDO_VIEW]
    shuffle = random.Random(0)
    rounds = []
    for number in range(-3, num_rounds):  # the first steps also build caches
        shuffle.shuffle(names)
        measured = contest.round(num_warm_up + 3 + number, names)
        if number >= 0:
            rounds.append({name: measured[name] for name in (BASE, WITHOUT_FIXES, PHOTO, PSEUDO_VIEW)})
    return compare(rounds, contest.pseudo_view_probability)
