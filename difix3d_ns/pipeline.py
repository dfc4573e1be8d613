"""The pipeline: photos, Gaussians and the fixer, set up together. It says when novel views are fixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from difix3d_ns.cameras.poses import spread_indices
from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence, require_in_range
from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.fixing.enhancer import Gaussians
from difix3d_ns.methods.pipeline import NovelViewPipeline, NovelViewPipelineConfig
from difix3d_ns.model import VIEWER_BACKGROUND, Difix3DModel, Difix3DModelConfig
from difix3d_ns.novel_views.few_photos import are_few, mean_color
from difix3d_ns.printing import say
from difix3d_ns.resuming.optimizers import reattach_optimizers
from difix3d_ns.resuming.starts import Start, require_gaussians, require_same_modules
from difix3d_ns.splats.gaussians import fill_between_points, initial_gaussians, means_and_opacities
from difix3d_ns.stereo.config import StartPointsConfig
from difix3d_ns.stereo.scene import add_points_seen_once, place_start_points

NUM_REMOVALS = 10
"""How many times floaters are removed before the first certain fix."""
MAX_VIEWS_FOR_REMOVAL = 24
"""Floaters are sought in at most this many novel views."""
MAX_PHOTOS_FOR_REMOVAL = 50
"""At most this many photos tell what is no floater."""
TRUSTED_RELIABILITY = 0.5
"""From this reliability on, a network may fill what no photo shows: nothing is removed, left out or faded any more."""


@dataclass
class Difix3DPipelineConfig(NovelViewPipelineConfig):
    """Photos, Gaussians, the network, and the loop of novel views."""

    _target: type = field(default_factory=lambda: Difix3DPipeline)
    datamanager: Difix3DDataManagerConfig = field(default_factory=Difix3DDataManagerConfig)
    """Photos, poses and the probability of pseudo views."""
    model: Difix3DModelConfig = field(default_factory=Difix3DModelConfig)
    """The Gaussians, and the loss weight of pseudo views."""
    # Not a default_factory: runs that were made without this field read the class's value.
    start_points: StartPointsConfig = field(default=StartPointsConfig())
    """Where the first Gaussians are placed."""
    fix_novel_views: bool = True
    """Whether training fixes novel views at all. False trains splatfacto with an enhanced output.
    Few photos still switch on what holds the splat back from overfitting, unless `few_photos` is `no`."""
    blur_unseen: bool = True
    """With few photos (see `few_photos`), whether fixed views are blurred in wide areas whose surface no photo shows,
    unless the network has changed them. Otherwise the splat learns its own wrong guesses there, such as needles.
    In a run without fixes, the enhanced output is blurred there instead, and fog in it is hidden, if the network takes
    aligned references."""

    def clears_unseen_in_renders(self, num_photos: int) -> bool:
        """Whether enhanced renders of the run are cleared of what no photo shows; see `UnseenClearing`.

        A splat of a run with fixes has no floaters and has learned to be smooth where no photo looks: another blur
        would also reach what is right. In views near the photos there is nothing to clear.

        Args:
            num_photos: number of training photos.
        """
        few = are_few(self.few_photos, num_photos, views_are_remote=True)
        return self.blur_unseen and not self.fix_novel_views and few


class Difix3DPipeline(NovelViewPipeline):
    """Splatfacto's pipeline with progressive fixes of novel views; see `NovelViewPipeline`."""

    config: Difix3DPipelineConfig
    datamanager: Difix3DDataManager
    needs_gsplat = True

    @property
    def difix3d_model(self) -> Difix3DModel:
        """The model, without the wrapper of distributed training."""
        model = self.enhancing_model
        assert isinstance(model, Difix3DModel)
        return model

    def _gaussians(self) -> Gaussians:
        return lambda: means_and_opacities(self.difix3d_model.gauss_params)

    def _splat(self) -> RenderedSplat:
        return RenderedSplat(self.difix3d_model)

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:  # type: ignore[override]
        """As in `NovelViewPipeline`; if training begins from nothing, the first Gaussians are placed before."""
        trainer = attributes.trainer
        assert trainer is not None
        with exit_with_one_sentence():
            if trainer._start_step == 0:
                self._place_gaussians(Path(trainer.base_dir))
            self._adapt_to_few_photos(trainer._start_step + trainer.config.max_num_iterations)
        return super().get_training_callbacks(attributes)

    def _start_loop(self, trainer: Any, start: Start) -> list[TrainingCallback]:
        """As in `NovelViewPipeline`; with few photos, floaters are removed until the first certain fix.

        Both this and what else holds back a splat of few photos end once the network proves reliable.
        """
        callbacks = super()._start_loop(trainer, start)
        loop = self.loop
        assert loop is not None

        def hold_back(step: int) -> None:
            self.difix3d_model.is_held_back = loop.reliability < TRUSTED_RELIABILITY

        if loop.few_photos:
            callbacks.append(TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], hold_back))
        ratio = self.difix3d_model.config.floater_ratio
        require_in_range("--pipeline.model.floater-ratio", ratio, 0)
        if ratio == 0 or not loop.few_photos or not loop.schedule.certain:
            return callbacks
        first_fix = loop.schedule.certain[0] - start.origin
        steps = {start.origin + round(first_fix * part / NUM_REMOVALS) for part in range(1, NUM_REMOVALS + 1)}
        remaining = tuple(sorted(step for step in steps if step >= start.step))

        def remove(step: int) -> None:
            # A network that is right about photos it has not seen may also show what no photo shows.
            if loop.reliability < TRUSTED_RELIABILITY:
                self.difix3d_model.remove_floaters(*self._views_for_removal())

        removal = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], remove, iters=remaining)
        if not remaining:
            return callbacks
        say(f"Until step {max(steps)}, Gaussians that lie over novel views like fog are removed.")
        return [removal, *callbacks]

    def _novel_view_background(self) -> Float[Tensor, "3"] | None:
        """With few photos their mean colour: a hole would otherwise teach the model's own background, which is dark.

        Photos with transparent pixels keep the model's own, and a background that the user has chosen stays.
        """
        if self.difix3d_model.config.background_color != "random":
            return None
        if self.has_few_photos and not self.datamanager.has_transparent_photos:
            return mean_color(self.datamanager)
        # Given here because the viewer changes the model's.
        return torch.tensor(VIEWER_BACKGROUND)

    def _blurs_unseen(self) -> bool:
        return self.config.blur_unseen

    def _clears_unseen_in_renders(self) -> bool:
        return self.config.clears_unseen_in_renders(len(self.datamanager.train_dataset))

    def _views_for_removal(self) -> tuple[list[Cameras], list[Cameras]]:
        """Some cameras of targets and of photos as the model has corrected them, spread evenly."""
        assert self.loop is not None
        targets, photos = self.loop.walk.targets, self.datamanager.train_dataset.cameras
        of_targets = spread_indices(len(targets), MAX_VIEWS_FOR_REMOVAL)
        of_photos = spread_indices(len(photos), MAX_PHOTOS_FOR_REMOVAL)
        return (
            [targets[index : index + 1].to(self.device) for index in of_targets],
            [self.difix3d_model.camera_of_photo(photos[i : i + 1].to(self.device), i) for i in of_photos],
        )

    def _adapt_to_few_photos(self, last_step: int) -> None:
        """Lets training leave Gaussians out and fade, and see photos in full size, and says so, if they are few."""
        model, num_photos = self.difix3d_model, len(self.datamanager.train_dataset)
        share, decay = model.config.gaussian_dropout, model.config.opacity_decay
        if not 0 <= share < 1:
            raise Difix3DError(f"--pipeline.model.gaussian-dropout must be at least 0 and below 1, not {share}.")
        if not 0 < decay <= 1:
            raise Difix3DError(f"--pipeline.model.opacity-decay must be above 0 and at most 1, not {decay}.")
        if not self.has_few_photos:
            return
        model.has_few_photos = True
        measures = []
        if share > 0:
            model.dropout_until = last_step
            measures.append(f"leaves out some Gaussians, up to {share:.0%} at the end")
        if decay < 1:
            measures.append("makes all Gaussians a little more transparent")
        if model.config.few_photos_num_downscales <= 0 < model.config.num_downscales:
            measures.append("sees photos in full size")
        if measures:
            reason = f"{num_photos} training photos are few"
            if not are_few(self.config.few_photos, num_photos):
                reason = f"Novel views go far from the {num_photos} training photos, so these count as few"
            say(f"{reason}: each step {_in_words(measures)}. --pipeline.few-photos no trains without this.")

    def _place_gaussians(self, run_folder: Path) -> None:
        """Places the first Gaussians at points that are found in the photos, if the config asks for it."""
        model = self.difix3d_model
        placed = None if model.config.random_init else self._found_start_points(run_folder)
        if placed is not None:
            # `_after_loading` hands them to the optimizers.
            for name, values in initial_gaussians(*placed, model.config.sh_degree).items():
                model.gauss_params[name] = torch.nn.Parameter(values.to(self.device))

    def _found_start_points(
        self, run_folder: Path
    ) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]] | None:
        """Start points that are found in the photos, and their colours in [0, 1]; None for the scene's own alone."""
        config, model, dataset = self.config.start_points, self.difix3d_model.config, self.datamanager.train_dataset
        metadata, data = self.datamanager.train_dataparser_outputs.metadata, self.datamanager.config.data
        num_given = len(metadata.get("points3D_xyz", ()))
        if config.uses_stereo(num_given):
            num_wanted = min(config.num_points, model.max_gaussians or config.num_points)
            points = place_start_points(dataset, metadata, num_wanted, self.device, run_folder, data)
        elif config.source == "scene" or not are_few(self.config.few_photos, len(dataset)):
            return None
        else:
            points = add_points_seen_once(dataset, metadata, self.device, run_folder, data)
        return None if points is None else fill_between_points(*points, model.min_initial_gaussians)

    def _after_loading(self, optimizers: Optimizers) -> None:
        reattach_optimizers(self.difix3d_model, optimizers.optimizers)

    def _remark_on(self, start: Start) -> str:
        return "Gaussians are split until --pipeline.model.stop-split-at."

    def _require_fitting(self, checkpoint: dict[str, Any]) -> None:
        require_gaussians(checkpoint)
        require_same_modules(checkpoint, self.difix3d_model.state_dict())


def _in_words(parts: Sequence[str]) -> str:
    """Parts of a sentence, with a comma after each but the last and an "and" before that."""
    *others, last = parts
    return ", ".join([*others, f"and {last}"]) if others else last
