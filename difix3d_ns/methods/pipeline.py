"""What the pipelines of all methods share: the network, the loop of novel views, the viewer's panels, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from difix3d_ns.errors import Difix3DError, exit_with_one_sentence, require_in_range
from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.fixing.enhancer import Gaussians, RenderEnhancer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.given_settings import require_valid_difix, require_valid_references
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.images.backgrounds import background_color
from difix3d_ns.images.held_out_metrics import held_out_metrics
from difix3d_ns.machine.facts import read_machine
from difix3d_ns.machine.starting import cuda_fault, cuda_remarks, require_one_process
from difix3d_ns.methods.datamanager import NovelViewDataManager
from difix3d_ns.methods.settled_network import keep_network_of_earlier_run, settle_on_network
from difix3d_ns.novel_views.few_photos import are_few, are_remote
from difix3d_ns.novel_views.loop import NovelViewLoop, NovelViewLoopConfig
from difix3d_ns.novel_views.targets import target_cameras
from difix3d_ns.printing import say
from difix3d_ns.resuming.checkpoints import explained_misfit
from difix3d_ns.resuming.run_record import RunRecord
from difix3d_ns.resuming.starts import Start, require_same_frame, start_of_run
from difix3d_ns.viewer.enhance_panel import ENHANCE_PANEL, EnhancePanel
from difix3d_ns.viewer.panel import rendering_for_viewer
from difix3d_ns.viewer.training_panel import TRAINING_PANEL, TrainingPanel


@dataclass
class NovelViewPipelineConfig(NovelViewLoopConfig, VanillaPipelineConfig):
    """Settings that all methods have: the network, its references, and the loop of novel views."""

    _target: type = field(default_factory=lambda: NovelViewPipeline)
    difix: DifixConfig = field(default_factory=DifixConfig)
    """The network that cleans renders, in training and for `rgb_enhanced`."""
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Which photo the network gets as reference, in training and for `rgb_enhanced`."""
    fix_novel_views: bool = True
    """Whether training fixes novel views at all. False trains without them; the enhanced output remains."""
    evaluate_enhanced: bool = True
    """Whether `ns-eval` also measures `rgb_enhanced`."""


class NovelViewPipeline(VanillaPipeline):
    """nerfstudio's pipeline with progressive fixes of novel views (arXiv 2503.01774, section 4.2).

    A subclass adds what depends on the representation of the scene. Its datamanager is a `NovelViewDataManager` and its
    model an `EnhancedOutputs` that renders novel views (`Renderer`).

    Args:
        config: see `NovelViewPipelineConfig`.
        device: where the model lives.
        test_mode: see nerfstudio's `VanillaPipeline`.
        world_size: number of processes.
        local_rank: rank of this process.
        grad_scaler: for mixed precision.

    Attributes:
        method: the command that trains this representation, for messages.
        fixer: cleans renders.
        enhancer: chooses reference photos and enhances renders.
        loop: the novel views; None until training starts, and in runs without fixes.
    """

    config: NovelViewPipelineConfig
    datamanager: NovelViewDataManager
    method = "difix3d"
    needs_gsplat = False
    """Whether rendering on CUDA needs gsplat's kernels."""

    def __init__(
        self,
        config: NovelViewPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        with exit_with_one_sentence():
            require_valid_difix(config.difix, "--pipeline.difix.")
            require_valid_references(config.references, "--pipeline.references.")
            if torch.device(device).type == "cuda":
                _require_cuda(self.needs_gsplat)
            require_one_process(self.method, world_size)
            super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self.datamanager.photo_background = lambda: background_color(self.model)
        self.loop: NovelViewLoop | None = None
        self.fixer = self._new_fixer(device)
        with exit_with_one_sentence():
            self.enhancer = RenderEnhancer(
                self.fixer,
                self.datamanager.train_dataset,
                config.references,
                unit=lambda: config.length_unit(self.datamanager),
                gaussians=self._gaussians(),
                read_training_photo=self.datamanager.training_photo,
                splat=self._splat(),
                clears_unseen=self._clears_unseen_in_renders(),
            )
        self.enhancing_model.enhancer = self.enhance
        self._enhance_panel = EnhancePanel(
            self.fixer, self._reference_for_viewer, self._clear_for_viewer, self._blur_for_viewer
        )
        self.add_module(ENHANCE_PANEL, self._enhance_panel)  # the viewer shows this name
        self._training_panel = TrainingPanel(self.enhancing_model.config, self.datamanager.config)
        if test_mode == "val" and config.fix_novel_views:
            self.add_module(TRAINING_PANEL, self._training_panel)

    def _reference_for_viewer(
        self, fixer: LazyFixer, render: Float[Tensor, "height width 3"], camera: Cameras, outputs: Mapping[str, Any]
    ) -> Float[Tensor, "ref_height ref_width channels"] | None:
        return self.enhancer.references_of([render], [camera], [outputs], fixer)[0]

    def _clear_for_viewer(
        self, fixer: LazyFixer, render: Float[Tensor, "height width 3"], camera: Cameras, outputs: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "height width 3"], Mapping[str, Any]]:
        renders, found = self.enhancer.without_floaters([render], [camera], [outputs], fixer, strength=1.0)
        return renders[0], outputs if found is None else found[0]

    def _blur_for_viewer(
        self,
        fixer: LazyFixer,
        render: Float[Tensor, "height width 3"],
        clean: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Mapping[str, Any],
    ) -> Float[Tensor, "height width 3"]:
        return self.enhancer.blur_unseen([render], [clean], [camera], [outputs], fixer, strength=1.0)[0]

    def _splat(self) -> RenderedSplat | None:
        """The splat by whose depth references are aligned; None for a representation that is none."""
        return None

    def _novel_view_background(self) -> Float[Tensor, "3"] | None:
        """Colour in [0, 1] behind the novel views that training learns from; None for that of the model."""
        return None

    def _blurs_unseen(self) -> bool:
        """Whether novel views of few photos are blurred where they show what no photo shows."""
        return False

    def _clears_unseen_in_renders(self) -> bool:
        """Whether enhanced renders are cleared of what no photo shows."""
        return False

    def _new_fixer(self, device: str) -> LazyFixer:
        """What cleans renders in this pipeline; for subclasses to replace."""
        is_training = self.test_mode == "val"
        return LazyFixer(self.config.difix if is_training else self.config.difix.for_rendering(), device)

    @property
    def enhancing_model(self) -> Any:
        """The model, without the wrapper of distributed training: a `Renderer` with `EnhancedOutputs`."""
        return self.model

    @cached_property
    def targets(self) -> Cameras:
        """The cameras that novel views walk to, shape (num_views,).

        Raises:
            Difix3DError: the config of targets is invalid or does not fit the scene.
        """
        datamanager = self.datamanager
        return target_cameras(self.config.targets, datamanager.train_dataset.cameras, datamanager.eval_cameras)

    @cached_property
    def has_few_photos(self) -> bool:
        """Whether training treats its photos as few, see the setting `few_photos`. A run without fixes has no targets.

        Raises:
            Difix3DError: as for `targets`.
        """
        setting, num_photos = self.config.few_photos, len(self.datamanager.train_dataset)
        if are_few(setting, num_photos):
            return True
        if not self.config.fix_novel_views or not are_few(setting, num_photos, views_are_remote=True):
            return False
        photos, radius = self.datamanager.train_camera_to_worlds, self.datamanager.scene_radius
        return are_remote(self.targets.camera_to_worlds.cpu(), photos, radius)

    def _gaussians(self) -> Gaussians | None:
        """Returns the Gaussians, by which references can be chosen; None for a representation without them."""
        return None

    def _after_loading(self, optimizers: Optimizers) -> None:
        """Prepares for training, after a checkpoint was loaded if there is one."""

    def _remark_on(self, start: Start) -> str:
        """What to know about a run that takes over another's scene and begins to fix novel views; may be empty."""
        return ""

    def _require_fitting(self, checkpoint: dict[str, Any]) -> None:
        """Raises Difix3DError if a checkpoint's parameters, by their names in the pipeline, do not fit this run."""

    def enhance(
        self, rgb: Float[Tensor, "height width 3"], camera: Cameras, outputs: Mapping[str, Any]
    ) -> Float[Tensor, "height width 3"]:
        """Enhances one render with training photos near its camera as reference; in the viewer as its panel is set.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).
            outputs: all outputs of the render.

        Returns:
            The enhanced image in [0, 1], at the render's size and on its device.
        """
        if (viewer := rendering_for_viewer()) is not None:
            return self._enhance_panel.enhance(rgb, camera, viewer, outputs)
        with exit_with_one_sentence():
            return self.enhancer.enhance(rgb, camera, outputs)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:  # type: ignore[override]
        """The model's callbacks and the fixes. nerfstudio asks once, after it has loaded a checkpoint."""
        callbacks = super().get_training_callbacks(attributes)
        trainer = attributes.trainer
        assert trainer is not None and attributes.optimizers is not None
        self._after_loading(attributes.optimizers)
        with exit_with_one_sentence():
            start = start_of_run(trainer)
            parsed = self.datamanager.train_dataparser_outputs
            require_same_frame(start, parsed.dataparser_transform, parsed.dataparser_scale)
            fixes = self.config.fix_novel_views
            if start.step > 0:
                remark = self._remark_on(start) if fixes and start.origin == start.step else ""
                say(f"{start.describe(fixes)} {remark}".rstrip())
            if fixes:
                callbacks += self._start_loop(trainer, start)
            if self.loop is None or not self.loop.schedule.steps:
                keep_network_of_earlier_run(self.config, self.fixer, trainer, start)
            start.save(Path(trainer.base_dir), self._record(trainer))
        return callbacks

    def _record(self, trainer: Any) -> RunRecord:
        network = self.config.difix
        facts = network.model, network.revision, network.base
        return RunRecord(trainer.config.method_name, self.config.fix_novel_views, *facts)

    def _start_loop(self, trainer: Any, start: Start) -> list[TrainingCallback]:
        """Builds the loop of novel views; returns what training calls for it."""
        weight = self.enhancing_model.config.pseudo_view_loss_weight
        require_in_range("--pipeline.model.pseudo-view-loss-weight", weight, 0)
        breaks = self._training_panel.breaks
        self.fixer.after_batch = breaks.take
        self.loop = loop = NovelViewLoop(
            self.config,
            breaks.after_renders_of(self.enhancing_model),
            self.datamanager,
            self.targets,
            self.has_few_photos,
            self.enhancer,
            start,
            Path(trainer.base_dir),
            observers=[self._training_panel],
            background=self._novel_view_background(),
            blurs_unseen=self._blurs_unseen(),
            checkpoint_folder=Path(trainer.checkpoint_dir),
        )
        if loop.schedule.steps:
            settle_on_network(self.config, self.fixer, trainer, start)
        say(loop.describe())
        newest = self.datamanager.pseudo_views.newest
        certain = tuple(step for step in loop.schedule.steps if step not in loop.schedule.early)
        self._training_panel.start(certain, len(loop.walk), loop.walk.num_arrived, newest)

        def fix(step: int, on_request: bool = False) -> None:
            with breaks.allowed():
                loop.fix(step, on_request)

        def fix_or_exit(step: int) -> None:
            with exit_with_one_sentence():
                fix(step)

        steps = loop.schedule.steps
        scheduled = [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], fix_or_exit, iters=steps)]
        on_request = self._training_panel.callbacks(lambda step: fix(step, on_request=True))
        return (scheduled if steps else []) + on_request

    def get_train_loss_dict(self, step: int):
        """As in nerfstudio; a photo that cannot be read ends training with one sentence."""
        with exit_with_one_sentence():
            return super().get_train_loss_dict(step)

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """As in nerfstudio; `ns-eval`, which gives no step, also gets the metrics of `rgb_enhanced`.

        Returns:
            See `held_out_metrics`. During training, the metrics of raw renders only.
        """
        with exit_with_one_sentence():
            if len(self.datamanager.eval_dataset) == 0:
                raise Difix3DError(
                    f"the scene {self.datamanager.config.data} has no photos to evaluate on: list some as its "
                    "test_filenames, or change the dataparser's --eval-mode."
                )
            if step is not None or not self.config.evaluate_enhanced:
                return super().get_average_eval_image_metrics(step, output_path, get_std)
            self.fixer.load()  # before the time of frames is measured
            photos: Any = self.datamanager.fixed_indices_eval_dataloader  # type: ignore[attr-defined]
            self.eval()
            try:
                return held_out_metrics(self.enhancing_model, photos, len(photos), output_path, get_std)
            finally:
                self.train()

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """As in nerfstudio; a checkpoint that does not fit ends in one sentence."""
        with exit_with_one_sentence():
            self._require_fitting(loaded_state)
            with explained_misfit(f"of step {step}"):
                super().load_pipeline(loaded_state, step)


def _require_cuda(needs_gsplat: bool) -> None:
    """Prints what is doubtful about the GPU and, if they are needed, about gsplat's kernels.

    Raises:
        Difix3DError: nothing can run on CUDA here.
    """
    machine = read_machine()
    fault = cuda_fault(machine, needs_gsplat)
    if fault is not None:
        raise Difix3DError(fault)
    for remark in cuda_remarks(machine, needs_gsplat):
        say(remark, style="bold yellow")
