"""Difix3D's loop: novel views walk from the photos to their targets and are fixed on a schedule."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.novel_views.progressive_update import NothingCleanedError, ProgressiveUpdate
from difix3d_ns.novel_views.renders import Renderer
from difix3d_ns.novel_views.report import PartTimer, describe
from difix3d_ns.novel_views.schedule import FixSchedule, describe_fixes, fix_steps_of_run
from difix3d_ns.novel_views.targets import TargetConfig
from difix3d_ns.novel_views.training_views import TrainingViews
from difix3d_ns.novel_views.walk import NovelViewWalk
from difix3d_ns.printing import say
from difix3d_ns.pseudo_views.files import saved_sets
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER, PseudoViewSet
from difix3d_ns.resuming.starts import Start
from difix3d_ns.vetting.valid_settings import require_valid_vetting
from difix3d_ns.vetting.vet import VettingConfig


@dataclass
class NovelViewLoopConfig(VettingConfig):
    """Where novel views go, when they are fixed, and how they are vetted."""

    targets: TargetConfig = field(default_factory=TargetConfig)
    """The cameras that novel views walk to."""
    fix_steps: tuple[int, ...] = (3000, *range(6000, 60_001, 2000))
    """Training steps before which novel views are fixed.
    In a run that starts from one without fixes, for example of splatfacto or nerfacto, they count from its start."""
    fix_every: int = 0
    """Also fix novel views every this many steps; 0 for only at `fix_steps`."""
    early_fix_steps: tuple[int, ...] = ()
    """More fix steps, used once the network proves reliable at one of them (see `reliability`).
    Early fixes help most if the network is good, and harm most if it is poor. With few photos (see `few_photos`),
    novel views are kept as they are rendered until then."""
    few_photos_fix_steps: tuple[int, ...] = ()
    """More early fix steps, for scenes with few photos only.
    A splat of few photos is overfitted after a few thousand steps, and its novel views are then no longer worth
    keeping. A run that starts from one without fixes does not use them."""
    few_photos: Literal["auto", "yes", "no"] = "auto"
    """Whether training is held back from overfitting, as a scene with few photos needs.
    At the early fix steps, novel views become training views even if the network has not proved reliable: then the
    renders themselves. They are still coarse, and hold the later splat to what the photos agree on. A splat also leaves
    out some Gaussians at each step and makes all a little more transparent (see the model's `gaussian_dropout` and
    `opacity_decay`), loses those that lie over novel views (see `floater_ratio`), and sees photos in a size of its own
    at first (see `few_photos_num_downscales`).
    `auto`: up to 12 training photos are few, and up to 50 if the targets of novel views are far from them, for example
    on the other side of an object. A run without fixes has no targets."""
    planned_num_iterations: int = 30_000
    """Length of the run that these steps are planned for. In a shorter run they shrink in proportion; 0 never scales
    them."""
    step_length: float = 0.5
    """How far each novel view moves at a fix, on its way from the training view nearest to its target to the target.
    At its start, the run prints how many fixes it takes to arrive."""
    step_unit: Literal["scene", "units"] = "scene"
    """Unit of `step_length`.
    `scene`: 1 is the largest distance of a training or evaluation camera from the centre of them all.
    `units`: scene units, as published. nerfstudio scales the cameras of most scenes into [-1, 1], which makes the two
    units similar."""

    def length_unit(self, datamanager: TrainingViews) -> float:
        """Length of the unit, in scene units. In distances between poses it counts as much as one radian."""
        return datamanager.scene_radius if self.step_unit == "scene" else 1.0


class LoopObserver(Protocol):
    """Is informed about fixes, for example a panel in the viewer."""

    def fix_starts(self, step: int) -> None:
        """A fix begins before this training step."""
        ...

    def fix_ended(self, views: PseudoViewSet, on_request: bool, num_arrived: int, seconds: float) -> None:
        """A fix has ended.

        Args:
            views: the views that it made.
            on_request: whether a user asked for it.
            num_arrived: how many novel views have reached their targets.
            seconds: how long it took.
        """
        ...

    def fix_failed(self, step: int, fault: str) -> None:
        """A scheduled fix has changed nothing, and training goes on.

        Args:
            step: the next training step.
            fault: a sentence that says why.
        """
        ...


class NovelViewLoop:
    """Difix3D's loop over one run (arXiv 2503.01774, section 4.2).

    A run that resumes finds its pseudo views and the poses of its walk as they were at the checkpoint.

    Args:
        config: its settings. Those of vetting may change between fixes.
        model: renders novel views.
        datamanager: provides the photos, and the bank that receives the fixed views.
        targets: the cameras that novel views walk to, shape (num_views,).
        few_photos: whether training treats its photos as few.
        enhancer: chooses references and provides the fixer.
        start: where the run begins.
        run_folder: where fixed views are saved.
        observers: informed about each fix.
        background: colour in [0, 1] behind novel views; None for that of the model.
        blurs_unseen: whether novel views of few photos are blurred where they show what no photo shows. The model is
            a splat.
        checkpoint_folder: the run's folder of checkpoints; None if there is none.

    Attributes:
        walk: the novel views' poses.
        schedule: when they are fixed.
        few_photos: whether training treats its photos as few.
        reliability: of the fixer at the last test, in [0, 1].

    Raises:
        Difix3DError: the step length is not a positive number, a fix step is negative, a setting of vetting is outside
            its range, or the pseudo views of the earlier run cannot be copied.
    """

    def __init__(
        self,
        config: NovelViewLoopConfig,
        model: Renderer,
        datamanager: TrainingViews,
        targets: Cameras,
        few_photos: bool,
        enhancer: RenderEnhancer,
        start: Start,
        run_folder: Path,
        observers: Sequence[LoopObserver] = (),
        background: Float[Tensor, "3"] | None = None,
        blurs_unseen: bool = False,
        checkpoint_folder: Path | None = None,
    ) -> None:
        require_valid_vetting(config, "--pipeline.")
        unit = config.length_unit(datamanager)
        self.walk = NovelViewWalk(targets, datamanager.train_camera_to_worlds, config.step_length, unit)
        self.few_photos = few_photos
        self.schedule = _schedule(config, start, self.few_photos)
        self.reliability = 0.0
        self._config = config
        self._blurs_unseen = blurs_unseen and self.few_photos
        self._bank = datamanager.pseudo_views
        self._observers = observers
        self._update = ProgressiveUpdate(
            config, model, datamanager, enhancer, self.walk, unit, run_folder, background, checkpoint_folder
        )
        self._resume(start, run_folder)

    def describe(self) -> str:
        """The text printed before training: when novel views are fixed."""
        length = self.walk.step_length_to_arrive(self.schedule.num_moves(self.few_photos))
        fixes_to_arrive = self.walk.num_fixes_to_arrive
        text = describe_fixes(len(self.walk), self.schedule, fixes_to_arrive, length, self.few_photos)
        if self._blurs_unseen and self.schedule.num_moves(few_photos=False) > 0:
            text += " In fixed views, wide areas that no photo shows are blurred unless the network changes them."
        return text

    def fix(self, step: int, on_request: bool = False) -> None:
        """Fixes the novel views. At an early step, an unreliable fixer changes nothing.

        With few photos, the renders themselves are then kept.

        Args:
            step: the next training step.
            on_request: whether the viewer's user asked for it.

        Raises:
            NothingCleanedError: the fixer could not clean any view in a fix on request. A scheduled fix then prints a
                warning instead. In both, the novel views stay where they were, and the pseudo views teach as before.
            Difix3DError: a render contains NaN, so training has diverged. A fix on request moves no novel view then.
        """
        poses = self.walk.poses
        try:
            self._fix(step, on_request)
        except NothingCleanedError as error:
            self.walk.poses = poses
            if on_request:
                raise
            warn(f"step {step}: {error}", self._after_failed_fix())
            for observer in self._observers:
                observer.fix_failed(step, str(error))
        except Exception:
            if on_request:
                self.walk.poses = poses
            raise

    def _fix(self, step: int, on_request: bool) -> None:
        started = time.perf_counter()
        timer, tested = PartTimer(), None
        if self._config.reliability.test:
            with timer("testing"):
                tested = self._update.test_fixer(step)
        reliability = tested or 0.0
        self.reliability = reliability
        clean = on_request or self._may_clean(step, reliability)
        if not clean and not self.few_photos:
            say(f"Step {step}: no early fix, as {self._doubt(tested)}.")
            return
        for observer in self._observers:
            observer.fix_starts(step)
        # Early renders are coarse everywhere.
        blurs_unseen = self._blurs_unseen and step not in self.schedule.early
        views = self._update.fix(step, reliability if clean else 0.0, timer, clean, blurs_unseen)
        seconds = time.perf_counter() - started
        when = f"Step {step}, on request" if on_request else f"Step {step}"
        what = describe(views, self.walk.num_arrived, tested, None if clean else self._doubt(tested))
        say(f"{when}: {what} in {seconds:.1f} s: {timer}.")
        for observer in self._observers:
            observer.fix_ended(views, on_request, self.walk.num_arrived, seconds)

    def _after_failed_fix(self) -> str:
        """How training goes on after a fix that changed nothing."""
        if self._bank.step < 0:
            return "Training goes on without pseudo views until the next fix."
        return f"Training goes on with the pseudo views of step {self._bank.step} until the next fix."

    def _may_clean(self, step: int, reliability: float) -> bool:
        """Whether the fixer is reliable enough to change renders before this step.

        Once it has been, it stays so: the first fixed views would grow stale, and later tests say little because the
        splat then fits the photos.
        """
        if step not in self.schedule.early:
            return True
        newest = self._bank.newest
        if newest is not None and newest.step in self.schedule.early and all(view.cleaned for view in newest.views):
            return True
        return self._config.reliability.test and reliability >= self._config.reliability.needed_for_early_fixes

    def _doubt(self, tested: float | None) -> str:
        """Why the fixer changes no renders."""
        if tested is None:
            return "the network is not tested"
        needed = self._config.reliability.needed_for_early_fixes
        return f"the network removes {tested:.0%} of the error at photos, and {needed:.0%} is needed"

    def _resume(self, start: Start, run_folder: Path) -> None:
        if start.run_folder is None:
            return
        earlier, own = start.run_folder / PSEUDO_VIEW_FOLDER, run_folder / PSEUDO_VIEW_FOLDER
        if self._bank.restore(earlier, start.step - 1, own):
            self.walk.go_on_from(self._bank.camera_to_worlds())
            self.reliability = max((view.reliability for view in self._bank.views), default=0.0)
            say(f"Resumed with {len(self._bank)} pseudo views fixed at step {self._bank.step}.")
        elif saved_sets(earlier) and any(step < start.step for step in self.schedule.certain):
            warn(
                f"{earlier} holds no novel views that were fixed before step {start.step}.",
                "They start again at the photos, and none teaches until the next fix.",
            )


def _schedule(config: NovelViewLoopConfig, start: Start, few_photos: bool) -> FixSchedule:
    """The run's fixes. They count from where the Gaussians were first trained with fixes."""
    length, planned = start.end - start.origin, config.planned_num_iterations
    lists = config.fix_steps, config.early_fix_steps, config.few_photos_fix_steps
    if min(0, config.fix_every, planned, *(step for steps in lists for step in steps)) < 0:
        raise Difix3DError(
            "--pipeline.fix-steps, --pipeline.early-fix-steps, --pipeline.few-photos-fix-steps, --pipeline.fix-every "
            "and --pipeline.planned-num-iterations must be 0 or more."
        )
    certain = fix_steps_of_run(config.fix_steps, config.fix_every, length, planned)
    has_early = config.reliability.test or few_photos
    # A run that starts from a trained splat has no coarse renders to keep.
    of_few_photos = config.few_photos_fix_steps if few_photos and start.origin == 0 else ()
    early_steps = (*config.early_fix_steps, *of_few_photos)
    early = fix_steps_of_run(early_steps, 0, length, planned) if has_early else ()
    return FixSchedule(
        tuple(start.origin + step for step in certain),
        frozenset(start.origin + step for step in {*early} - {*certain}),
        start.step,
    )
