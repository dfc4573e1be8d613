"""When novel views are fixed: on a schedule, early where the network is reliable, and on the viewer's request."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence
from difix3d_ns.fixing.difix_fixer import DifixConfig, DifixFixer
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.model import Difix3DModel, Difix3DModelConfig, reattach_optimizers
from difix3d_ns.novel_views.progressive_update import ProgressiveUpdate, ProgressiveUpdateConfig
from difix3d_ns.novel_views.report import PartTimer, describe
from difix3d_ns.novel_views.schedule import describe_fixes, fix_steps_of_run
from difix3d_ns.novel_views.targets import TargetConfig, target_cameras
from difix3d_ns.novel_views.walk import NovelViewWalk
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER
from difix3d_ns.resuming.checkpoints import told_of_misfit
from difix3d_ns.resuming.starts import (
    Start,
    require_same_frame,
    require_same_modules,
    revision_of_earlier_run,
    start_of_run,
)
from difix3d_ns.splats.gaussians import means_and_opacities
from difix3d_ns.viewer.enhance_panel import ENHANCE_PANEL, EnhancePanel
from difix3d_ns.viewer.panel import rendering_for_viewer
from difix3d_ns.viewer.training_panel import TRAINING_PANEL, TrainingPanel


@dataclass
class Difix3DPipelineConfig(ProgressiveUpdateConfig, VanillaPipelineConfig):
    """When novel views are fixed, how far they go at each fix, and with which network."""

    _target: type = field(default_factory=lambda: Difix3DPipeline)
    datamanager: Difix3DDataManagerConfig = field(default_factory=Difix3DDataManagerConfig)
    """Photos, poses and the probability of pseudo views."""
    model: Difix3DModelConfig = field(default_factory=Difix3DModelConfig)
    """The Gaussians, and the loss weight of pseudo views."""
    difix: DifixConfig = field(default_factory=DifixConfig)
    """The network that cleans renders, in training and for `rgb_enhanced`."""
    targets: TargetConfig = field(default_factory=TargetConfig)
    """Where novel views walk to."""
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Which photo the network is given as reference, in training and for `rgb_enhanced`."""
    fix_novel_views: bool = True
    """Whether training fixes novel views at all; without, this is splatfacto with an enhanced output."""
    fix_steps: tuple[int, ...] = (3000, *range(6000, 60_001, 2000))
    """Training steps before which novel views are fixed.
    In a run that starts from Gaussians trained without fixes, as from a splatfacto run, they count from there."""
    fix_every: int = 0
    """A period in steps at which novel views are fixed as well; 0 for none."""
    early_fix_steps: tuple[int, ...] = ()
    """More training steps before which novel views are fixed, from the first one on at which the network proves
    reliable (see `reliability`). Early fixes gain most, and those of a poor network harm most."""
    planned_num_iterations: int = 30_000
    """Length of the run that these steps are made for. In a shorter run they shrink in proportion;
    0 takes them as they are."""
    step_length: float = 0.5
    """How far each novel view moves at a fix, from the training view nearest to its target towards the target.
    The run tells at its start how many fixes it takes to arrive."""
    step_unit: Literal["scene", "units"] = "scene"
    """What `step_length` counts in.
    `scene`: 1 is the largest distance of a camera, of training or evaluation, from the middle of them all.
    `units`: scene units, as published. nerfstudio scales most cameras into [-1, 1], where the two are alike."""
    evaluate_enhanced: bool = True
    """Whether `ns-eval` also measures `rgb_enhanced`."""


class Difix3DPipeline(VanillaPipeline):
    """Splatfacto's pipeline with progressive fixes of novel views (arXiv 2503.01774, section 4.2).

    Args:
        config: see `Difix3DPipelineConfig`.
        device: where the model lives.
        test_mode: as in nerfstudio.
        world_size: as in nerfstudio.
        local_rank: as in nerfstudio.
        grad_scaler: as in nerfstudio.
    """

    config: Difix3DPipelineConfig
    datamanager: Difix3DDataManager

    def __init__(
        self,
        config: Difix3DPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        with exit_with_one_sentence():
            if torch.device(device).type == "cuda" and not torch.cuda.is_available():
                raise Difix3DError("there is no usable CUDA device here: add --machine.device-type cpu.")
            super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self.fixer = DifixFixer(config.difix, device)
        self.enhancer = RenderEnhancer(
            self.fixer,
            self.datamanager.train_dataset,
            config.references,
            unit=lambda: self._unit,
            gaussians=lambda: means_and_opacities(self.difix3d_model.gauss_params),
            read_training_photo=self.datamanager.training_photo,
        )
        self.difix3d_model.enhancer = self.enhance
        self._enhance_panel = EnhancePanel(self.fixer, self.enhancer.reference_photo)
        self.add_module(ENHANCE_PANEL, self._enhance_panel)  # the name is what the viewer shows
        self._training_panel = TrainingPanel(self.difix3d_model.config, self.datamanager.config)
        if test_mode == "val" and config.fix_novel_views:
            self.add_module(TRAINING_PANEL, self._training_panel)

    @property
    def difix3d_model(self) -> Difix3DModel:
        """The model, out of its distributed wrapper if it has one."""
        model = self.model
        assert isinstance(model, Difix3DModel)
        return model

    def enhance(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Cleans one render with a training photo near its camera as reference; in the viewer as its panel says.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).

        Returns:
            The enhanced image in [0, 1], at the render's size and on its device.
        """
        if (viewer := rendering_for_viewer()) is not None:
            return self._enhance_panel.enhance(rgb, camera, viewer)
        with exit_with_one_sentence():
            return self.enhancer.enhance(rgb, camera)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:  # type: ignore[override]
        """Splatfacto's callbacks and, before the scheduled steps, the fix. Runs once, after a checkpoint was loaded."""
        callbacks = super().get_training_callbacks(attributes)
        trainer = attributes.trainer
        assert trainer is not None and attributes.optimizers is not None
        reattach_optimizers(self.difix3d_model, attributes.optimizers.optimizers)
        with exit_with_one_sentence():
            start = start_of_run(trainer)
            parsed = self.datamanager.train_dataparser_outputs
            require_same_frame(start, parsed.dataparser_transform, parsed.dataparser_scale)
            if start.step > 0:
                CONSOLE.print(str(start))
            if not self.config.fix_novel_views:
                return callbacks
            self._run_folder = Path(trainer.base_dir)
            start.save(self._run_folder)
            self._walk = self._new_walk()
            self._update = self._new_update()
            steps = self._steps_of_run(start)
            if steps:
                self._settle_on_network(trainer, start)
        surely = [step for step in steps if step not in self._early_steps]
        length = self._walk.step_length_to_arrive(len(surely))
        early = [step for step in steps if step in self._early_steps]
        CONSOLE.print(describe_fixes(len(self._walk), surely, self._walk.num_fixes_to_arrive, length, early))
        if steps:
            callbacks.append(
                TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._fix_at, iters=steps)
            )
        newest = self.datamanager.pseudo_views.newest
        self._training_panel.start(tuple(surely), len(self._walk), self._walk.num_arrived, newest)
        return callbacks + self._training_panel.callbacks(self._fix_on_request)

    @property
    def _unit(self) -> float:
        """What lengths count in, in scene units."""
        return self.datamanager.scene_radius if self.config.step_unit == "scene" else 1.0

    def _new_walk(self) -> NovelViewWalk:
        """The novel views at their starts."""
        photos = self.datamanager.train_dataset.cameras
        targets = target_cameras(self.config.targets, photos, self.datamanager.eval_cameras)
        return NovelViewWalk(targets, self.datamanager.train_camera_to_worlds, self.config.step_length, self._unit)

    def _new_update(self) -> ProgressiveUpdate:
        """What fixes the novel views."""
        parts = self.difix3d_model, self.datamanager, self.enhancer, self._walk
        return ProgressiveUpdate(self.config, *parts, self._unit, self._run_folder)

    def _steps_of_run(self, start: Start) -> tuple[int, ...]:
        """The run's fix steps; after a resume the bank and the walk stand where they stood at the checkpoint."""
        bank = self.datamanager.pseudo_views
        own = self._run_folder / PSEUDO_VIEW_FOLDER
        if start.run_folder is not None and bank.restore(start.run_folder / PSEUDO_VIEW_FOLDER, start.step - 1, own):
            self._walk.go_on_from(bank.camera_to_worlds())
            CONSOLE.print(f"Resumed with {len(bank)} pseudo views fixed at step {bank.step}.")
        config = self.config
        num_iterations = start.end - start.origin
        planned = config.planned_num_iterations
        surely = fix_steps_of_run(config.fix_steps, config.fix_every, num_iterations, planned)
        early = fix_steps_of_run(config.early_fix_steps, 0, num_iterations, planned) if config.reliability.test else ()
        self._early_steps = {start.origin + step for step in set(early) - set(surely)}
        steps = sorted(self._early_steps | {start.origin + step for step in surely})
        return tuple(step for step in steps if step >= start.step)

    def _settle_on_network(self, trainer: Any, start: Start) -> None:
        """Writes the network that `auto` stands for, and its commit, into the run's config, for later tools.

        A run that goes on from another one takes the commit that this one had.
        """
        config = self.config.difix
        if config.revision is None and start.run_folder is not None:
            self.fixer.config = replace(config, revision=revision_of_earlier_run(start, self.fixer.resolve().name))
        choice = self.fixer.fetch()
        CONSOLE.print(f"Difix: {choice.reason}")
        if (choice.name, choice.revision) != (config.model, config.revision):
            self.config.difix = self.fixer.config = replace(config, model=choice.name, revision=choice.revision)
            trainer.config.save_config()

    def _fix_at(self, step: int) -> None:
        with exit_with_one_sentence():
            self.fix_views(step)

    def _fix_on_request(self, step: int) -> None:
        """A fix that the viewer's user asked for; where it fails, the novel views stay where they stood."""
        poses = self._walk.poses
        try:
            self.fix_views(step, on_request=True)
        except Exception:
            self._walk.poses = poses
            raise

    def fix_views(self, step: int, on_request: bool = False) -> None:
        """One progressive update, unless it would be the first early one and the network is not reliable enough for it.

        Args:
            step: the training step that comes next.
            on_request: whether the viewer's user asked for it, not the schedule.

        Raises:
            Difix3DError: a render holds NaN, so training has diverged.
        """
        started = time.perf_counter()
        timer, reliability = PartTimer(), None
        if self.config.reliability.test:
            with timer("testing"):
                reliability = self._update.test_network(step)
        needed = self.config.reliability.needed_for_early_fixes
        # Once begun they go on: what the first ones made would grow stale, and the test at photos soon says little, as
        # the splat fits them.
        begun = self.datamanager.pseudo_views.step in self._early_steps
        if step in self._early_steps and not on_request and not begun and (reliability or 0.0) < needed:
            told = f"the network removes {reliability:.0%} of the error at photos, and {needed:.0%} is asked of it"
            CONSOLE.print(f"Step {step}: no early fix, as {told}.")
            return
        self._training_panel.fix_starts(step)
        views = self._update.fix(step, reliability or 0.0, timer)
        seconds = time.perf_counter() - started
        told = describe(views, self._walk.num_arrived, reliability)
        when = f"Step {step}, on request" if on_request else f"Step {step}"
        CONSOLE.print(f"{when}: {told} in {seconds:.1f} s: {timer}.")
        self._training_panel.fix_ended(views, on_request, self._walk.num_arrived, seconds)

    def get_train_loss_dict(self, step: int):
        """As in nerfstudio; a broken photo ends in one sentence."""
        with exit_with_one_sentence():
            return super().get_train_loss_dict(step)

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """As in nerfstudio; in `ns-eval`, which gives no step, `rgb_enhanced` is measured as well.

        Returns:
            `psnr`, `ssim`, `lpips` where available, `fps` and `num_rays_per_sec`, and the same of `rgb_enhanced` with
            the suffix `_enhanced`. nerfstudio's `fps` counts rendering and measuring together; the enhanced one counts
            Difix too.
        """
        model = self.difix3d_model
        with exit_with_one_sentence():
            if len(self.datamanager.eval_dataset) == 0:
                raise Difix3DError(f"the scene {self.datamanager.config.data} has no photos to evaluate on.")
            raw = super().get_average_eval_image_metrics(step, output_path, get_std)
            if step is not None or not self.config.evaluate_enhanced:
                return raw
            _ = self.fixer.network  # loaded before the time of frames is taken
            model.evaluate_enhanced = True
            try:
                both = super().get_average_eval_image_metrics(step, output_path, get_std)
            finally:
                model.evaluate_enhanced = False
        speeds = {name for name in raw if name.startswith(("fps", "num_rays_per_sec"))}
        enhanced = {
            name.replace("fps", "fps_enhanced").replace("per_sec", "per_sec_enhanced"): both[name] for name in speeds
        }
        return {**both, **enhanced, **{name: raw[name] for name in speeds}}

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """As in nerfstudio; a checkpoint that does not fit ends in one sentence."""
        with exit_with_one_sentence():
            require_same_modules(loaded_state, self.difix3d_model.state_dict())
            with told_of_misfit(f"of step {step}"):
                super().load_pipeline(loaded_state, step)
