"""Seconds per training step of difix3d against nerfstudio's plain splatfacto, in one process.

Splatfacto's pipeline, datamanager, model and trainer are nerfstudio's, with all of their code. Where there is no CUDA
its model gets this package's rasterization in place of gsplat's kernels, and `.cuda()` leaves tensors where they are:
what is left between the two is the plugin's own. Both are given the same settings, photos and start points. Before
each round all of them get the same Gaussians, random numbers and camera, so they do the same work, which their losses
prove; within a round they take turns, and each is held against splatfacto's step of the same round, so that whatever
else the machine does hits them alike.
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
    """On the clock."""
    work: float
    """What it is compared by: seconds of the CPU, which other programs do not change; with CUDA `seconds`."""
    loss: float


@dataclass
class ManyPointsConfig(NerfstudioDataParserConfig):
    """nerfstudio's dataparser, with a given number of start points."""

    _target: type = field(default_factory=lambda: ManyPoints)
    num_points: int = 10_000
    """Start points: the scene's and, where these are too few, more between neighbouring ones."""


class ManyPoints(Nerfstudio):
    """See `ManyPointsConfig`."""

    config: ManyPointsConfig

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        parsed = super()._generate_dataparser_outputs(split)
        points, colors = parsed.metadata["points3D_xyz"], parsed.metadata["points3D_rgb"].float()
        generator = torch.Generator().manual_seed(0)
        points, colors = fill_between_points(points, colors, self.config.num_points, generator)
        parsed.metadata.update(points3D_xyz=points, points3D_rgb=colors)
        return parsed


def configs(scene: Path, folder: Path, num_gaussians: int, scale: float, device: str) -> dict[str, TrainerConfig]:
    """Trainings of plain splatfacto and of difix3d without and with fixes, alike in every setting they share.

    Args:
        scene: in nerfstudio's format, with start points.
        folder: gets the runs' folders.
        num_gaussians: that each has, at all times.
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
    # What holds after the first thousands of steps of a long run: full size, all harmonics, no more splitting.
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
    # The schedule's callback is there; no step of the benchmark comes to it.
    fixing.pipeline.fix_steps, fixing.pipeline.planned_num_iterations = (fixing.max_num_iterations - 1,), 0
    fixing.pipeline.difix.model = "embedded"
    return {BASE: base, WITHOUT_FIXES: without, PHOTO: fixing}


class NoLpips(torch.nn.Module):
    """Stands in for LPIPS, which splatfacto builds for its evaluation only and which needs a download."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


@contextmanager
def plain_splatfacto(device: str) -> Iterator[None]:
    """Lets splatfacto's own code run offline, and without CUDA by this package's rasterization."""
    with ExitStack() as patches:
        name = "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity"
        patches.enter_context(patch(name, NoLpips))
        if device == "cpu":
            patches.enter_context(patch.object(splatfacto, "rasterization", rasterization))
            patches.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self))
        yield


def photos_as_pseudo_views(trainer: Trainer, num_views: int) -> PseudoViewSet:
    """A bank's content: views at the photos' own cameras, in turn, with the photos as pictures and uneven confidence.

    Args:
        trainer: of difix3d.
        num_views: how many.
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
    """Waits until the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def train_step(trainer: Trainer, step: int) -> float:
    """One step as in nerfstudio's trainer, with its callbacks; returns its loss."""
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    loss, _, _ = trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    return loss.detach()  # type: ignore[return-value]


class Contest:
    """The trainings, ready to take turns.

    Args:
        configs: of `configs`.
        num_views: views in the bank of the training with fixes.
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
        """Trains splatfacto for a while, so that the Gaussians are those of a training."""
        with plain_splatfacto(self.device):
            for step in range(num_steps):
                train_step(self._trainers[BASE], step)
        gaussians = self._trainers[BASE].pipeline.model.gauss_params
        self._gaussians = {name: values.detach().clone() for name, values in gaussians.items()}

    def round(self, step: int, order: list[str]) -> dict[str, Step]:
        """A step of each, on the same camera and Gaussians; returns what was measured of each."""
        # The camera is that of the fixed view which this step draws.
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
    """The median and the bounds between which the true one lies with 95% confidence, by order statistics."""
    ordered = sorted(values)
    reach = 0.98 * len(ordered) ** 0.5
    low = max(0, int(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, int(len(ordered) / 2 + reach))
    return statistics.median(ordered), ordered[low], ordered[high]


def compare(rounds: list[dict[str, Step]], pseudo_view_probability: float) -> dict[str, Any]:
    """What the rounds tell: seconds of each training's step and by how much it is slower than splatfacto's.

    Args:
        rounds: of `Contest.round`.
        pseudo_view_probability: share of steps with a fixed view in a training that has some.

    Raises:
        SystemExit: the losses of splatfacto and difix3d differ for the same photo, so they did not do the same.
    """
    for losses in ([each[name].loss for name in (BASE, WITHOUT_FIXES, PHOTO)] for each in rounds):
        if max(losses) - min(losses) > 1e-3 * max(losses):
            raise SystemExit(f"the losses of the same step differ, {losses}: the trainings do not do the same work.")
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
    """Seconds per training step by training, see the module.

    Args:
        configs: the trainings, of `configs`.
        num_rounds: steps of each that are timed.
        num_views: fixed views in the bank.
        num_warm_up: steps of splatfacto before them.
    """
    contest = Contest(configs, num_views)
    contest.train_base(num_warm_up)
    names = [BASE, WITHOUT_FIXES, PHOTO, PSEUDO_VIEW]
    shuffle = random.Random(0)
    rounds = []
    for number in range(-3, num_rounds):  # the first of each also builds what the later ones have
        shuffle.shuffle(names)
        measured = contest.round(num_warm_up + 3 + number, names)
        if number >= 0:
            rounds.append({name: measured[name] for name in (BASE, WITHOUT_FIXES, PHOTO, PSEUDO_VIEW)})
    return compare(rounds, contest.pseudo_view_probability)
