"""The viewer's panel for the novel views: progress, a fix on request, and the fixed views in the scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerSlider

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.printing import say
from difix3d_ns.pseudo_views.views import PseudoViewSet
from difix3d_ns.viewer.breaks import Breaks
from difix3d_ns.viewer.frustums import PseudoViewFrustums
from difix3d_ns.viewer.panel import ViewerMarkdown, ViewerPanel, plain

TRAINING_PANEL = "Novel views (Difix3D)"
"""The panel's label."""


class ModelSettings(Protocol):
    """The setting of a model that the panel changes."""

    pseudo_view_loss_weight: float


class DataManagerSettings(Protocol):
    """The setting of a datamanager that the panel changes."""

    pseudo_view_probability: float


@dataclass
class Progress:
    """The progress of the run's fixes."""

    steps: tuple[int, ...] = ()
    """Training steps before which fixes are scheduled."""
    num_scheduled: int = 0
    """Number of scheduled fixes done in this run."""
    num_requested: int = 0
    """Number of fixes done on request."""
    num_views: int = 0
    """Number of novel views."""
    num_arrived: int = 0
    """Number of novel views that have reached their targets."""
    num_rejected: int = 0
    """Number of novel views that the last fix rejected."""
    last_step: int = -1
    """Training step before which the last fix was done; -1 if there was none."""
    failed_step: int = -1
    """Training step before which the last scheduled fix failed; -1 if none has."""
    seconds: float = 0.0
    """Duration of the last fix."""

    def add(self, step: int, on_request: bool, num_arrived: int, num_rejected: int, seconds: float) -> None:
        """Counts a fix."""
        self.num_scheduled += not on_request and step in self.steps  # an early fix counts as neither
        self.num_requested += on_request
        self.last_step, self.seconds = step, seconds
        self.num_arrived, self.num_rejected = num_arrived, num_rejected

    @property
    def next_step(self) -> int | None:
        """The next scheduled step; None after the last."""
        return next((step for step in self.steps if step > max(self.last_step, self.failed_step)), None)

    def table(self) -> str:
        """The progress as a list in markdown."""
        done = f"{self.num_scheduled} of {len(self.steps)}"
        rows = {
            "Next fix": "none" if self.next_step is None else f"before step {self.next_step}",
            "Fixes done": f"{done}, {self.num_requested} on request" if self.num_requested else done,
            "At their targets": f"{self.num_arrived} of {self.num_views} views",
        }
        if self.last_step >= 0:
            rows["Rejected"] = f"{self.num_rejected} of {self.num_views} views"
            rows["Last fix"] = f"before step {self.last_step}, {self.seconds:.1f} s"
        return "  \n".join(f"**{name}:** {value}" for name, value in rows.items())


class TrainingPanel(ViewerPanel):
    """Shows the fixes of the novel views while a run trains.

    Args:
        model: the panel's slider sets its loss weight of pseudo views.
        datamanager: the panel's slider sets its probability of pseudo views.

    Attributes:
        breaks: the breaks of fixes, in which the viewer may render.
    """

    def __init__(self, model: ModelSettings, datamanager: DataManagerSettings) -> None:
        super().__init__()
        self._progress = Progress()
        self.breaks = Breaks(lambda: self._viewer)
        self._is_requested = False
        self._frustums: PseudoViewFrustums | None = None
        self._status = self._add(ViewerMarkdown("Novel views", "Training has not started."))
        self._button = self._add(ViewerButton("Fix now", lambda _: self.request()))
        self._are_shown = self._add(
            ViewerCheckbox(
                "Show fixed views",
                True,
                cb_hook=lambda _: self._show_or_hide(),
                hint="Yellow: used in training. Red: rejected. Click on a view to look through its camera",
            )
        )
        weight, probability = model.pseudo_view_loss_weight, datamanager.pseudo_view_probability
        self._add(
            ViewerSlider(
                *("Loss weight", weight, 0.0, max(1.0, weight), 0.05),
                cb_hook=lambda slider: setattr(model, "pseudo_view_loss_weight", float(slider.value)),
                hint="Weight of a fixed view in the loss; a photo has 1",
            )
        )
        self._add(
            ViewerSlider(
                *("Probability", probability, 0.0, 1.0, 0.05),
                cb_hook=lambda slider: setattr(datamanager, "pseudo_view_probability", float(slider.value)),
                hint="How likely a training step uses a fixed view instead of a photo",
            )
        )

    def start(self, steps: tuple[int, ...], num_views: int, num_arrived: int, views: PseudoViewSet | None) -> None:
        """Shows the state at the start of a run.

        Args:
            steps: training steps before which fixes are scheduled.
            num_views: number of novel views.
            num_arrived: how many of them have reached their targets.
            views: the views of the earlier run's last fix, if this run resumes one.
        """
        self._progress = Progress(steps, num_views=num_views, num_arrived=num_arrived)
        self._show()
        if views is not None:
            self._draw(views)

    def request(self) -> None:
        """Asks for a fix before the next training step."""
        self._is_requested = True
        self._show("Novel views will be fixed before the next training step.")

    def callbacks(self, fix: Callable[[int], None]) -> list[TrainingCallback]:
        """The training callbacks of the panel.

        Args:
            fix: fixes the novel views before the training step that it gets.
        """

        def before_step(step: int) -> None:
            if not self._is_requested:
                return
            try:
                fix(step)
            except (Difix3DError, DifixError) as error:  # a fix requested by hand must not end the training
                self._is_requested = False
                say(f"difix3d: {error}")
                self._show(f"**Not fixed:** {plain(str(error))}")

        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], lambda step: self._training_ended()),
        ]

    def fix_starts(self, step: int) -> None:
        """Shows that a fix has begun.

        Args:
            step: the next training step.
        """
        self._is_requested = False
        self._show(f"Fixing {self._progress.num_views} views before step {step} ...")

    def fix_ended(self, views: PseudoViewSet, on_request: bool, num_arrived: int, seconds: float) -> None:
        """Shows the result of a fix.

        Args:
            views: the views that it made.
            on_request: whether it was requested in this panel.
            num_arrived: how many novel views have reached their targets.
            seconds: duration of the fix.
        """
        self._progress.add(views.step, on_request, num_arrived, len(views.rejected), seconds)
        self._show()
        self._draw(views)

    def fix_failed(self, step: int, fault: str) -> None:
        """Shows that a scheduled fix has changed nothing.

        Args:
            step: the next training step.
            fault: a sentence that says why.
        """
        self._progress.failed_step = step
        self._show(f"**Not fixed before step {step}:** {plain(fault)}")

    def _training_ended(self) -> None:
        if self._viewer is not None:
            self._button.set_disabled(True)
        self._show("Training has finished.")

    def _show(self, news: str = "") -> None:
        self._status.text = "  \n".join([self._progress.table(), *([news] if news else [])])

    def _draw(self, views: PseudoViewSet) -> None:
        if self._viewer is None:
            return
        if self._frustums is None:
            config = self._viewer.config
            self._frustums = PseudoViewFrustums(
                self._viewer.viser_server, config.camera_frustum_scale, config.max_num_display_images
            )
        self._frustums.draw(views, visible=bool(self._are_shown.value))

    def _show_or_hide(self) -> None:
        if self._frustums is not None:
            self._frustums.show(bool(self._are_shown.value))
