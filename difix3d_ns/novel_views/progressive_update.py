"""One progressive update: the network is tested at photos, and novel views are rendered, cleaned, vetted and stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import writer
from torch import Tensor

from difix3d_ns.cameras.poses import camera_with_pose, k_nearest_poses
from difix3d_ns.datamanager import Difix3DDataManager
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.model import Difix3DModel
from difix3d_ns.novel_views.renders import MAX_PIXELS_AT_ONCE, in_parts, render_novel_views
from difix3d_ns.novel_views.report import PartTimer, panels
from difix3d_ns.novel_views.walk import NovelViewWalk
from difix3d_ns.progress import progress_bars
from difix3d_ns.pseudo_views.banked_views import give_back_freed_memory
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER, PseudoViewSet
from difix3d_ns.vetting.confidence import ConfidenceConfig
from difix3d_ns.vetting.reliability import ReliabilityConfig, error_removed, nearest_others, photos_to_test_on
from difix3d_ns.vetting.trust import TrustConfig
from difix3d_ns.vetting.vet import NovelViewFix, vet


@dataclass
class ProgressiveUpdateConfig:
    """Which fixed views teach, and how much."""

    min_accumulation: float = 0.5
    """Pixels of a novel view whose accumulated opacity is below this do not teach."""
    match_colors: bool = True
    """Whether large-scale colours of a fixed view are matched to its render where that is confident; without, a
    network's shifts of brightness add up from fix to fix."""
    trust: TrustConfig = field(default_factory=TrustConfig)
    """When a fixed view is rejected."""
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    """How much each pixel of a fixed view counts."""
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    """How the network proves itself at the photos, and what for."""


class ProgressiveUpdate:
    """Fixes the novel views of a run (arXiv 2503.01774, section 4.2).

    Args:
        config: which fixed views teach; read anew at every fix.
        model: the Gaussians.
        datamanager: the photos, and the bank that takes the fixed views.
        enhancer: the network, and what chooses its references.
        walk: where the novel views stand.
        unit: length in scene units that counts as much as one radian.
        run_folder: where fixed views are kept for a resume.
    """

    def __init__(
        self,
        config: ProgressiveUpdateConfig,
        model: Difix3DModel,
        datamanager: Difix3DDataManager,
        enhancer: RenderEnhancer,
        walk: NovelViewWalk,
        unit: float,
        run_folder: Path,
    ) -> None:
        self.config = config
        self.walk = walk
        self.unit = unit
        self.datamanager = datamanager
        self._model = model
        self._enhancer = enhancer
        self._folder = run_folder / PSEUDO_VIEW_FOLDER

    def test_network(self, step: int) -> float:
        """The network's reliability: what it removes of the error of the renders at some photos' own views, in [0, 1].

        Args:
            step: training step that comes next.

        Raises:
            Difix3DError: a render holds NaN, so training has diverged.
        """
        photos, poses = self.datamanager.train_dataset.cameras, self.datamanager.train_camera_to_worlds
        indices = photos_to_test_on(len(poses), self.config.reliability.num_photos)
        cameras = [camera_with_pose(photos[index : index + 1], poses[index]) for index in indices]
        renders, _ = render_novel_views(self._model, cameras, step)
        references = self.datamanager.training_photos(nearest_others(poses, indices, self.unit))
        fixed = self.clean(cameras, renders, references)
        return error_removed(renders, fixed, self.datamanager.training_photos(indices))

    def fix(self, step: int, reliability: float, timer: PartTimer) -> PseudoViewSet:
        """Moves the novel views on, renders and cleans them, and makes those that pass the pseudo views.

        Args:
            step: training step that comes next.
            reliability: of the network, in [0, 1].
            timer: takes how long rendering, cleaning and storing took.

        Returns:
            The fixed views, now the newest pseudo views.

        Raises:
            Difix3DError: a render holds NaN, so training has diverged.
        """
        self.walk.advance()
        cameras = self.walk.cameras()
        nearest = self._enhancer.choose_references(cameras)
        bank = self.datamanager.pseudo_views
        distances = k_nearest_poses(self.walk.poses, self.datamanager.train_camera_to_worlds, 1, self.unit)[0]
        shown: dict[str, Tensor] = {}
        # Thousands of novel views do not fit into the memory together, so they come part by part.
        max_pixels = max(MAX_PIXELS_AT_ONCE, self._enhancer.fixer.config.max_pixels_per_batch)
        with progress_bars() as progress, bank.incoming(step, self._folder) as add:
            rendering = progress.add_task("[green]Rendering novel views", total=len(cameras))
            fixing = progress.add_task("[green]Fixing novel views", total=len(cameras))
            for part in in_parts(cameras, max_pixels):
                chosen = slice(part.start, part.stop)
                with timer("rendering"):
                    renders, accumulations = render_novel_views(
                        self._model, cameras[chosen], step, lambda: progress.advance(rendering), part.start
                    )
                with timer("Difix"):
                    references = self.datamanager.training_photos(nearest[chosen])
                    fixed = self.clean(
                        cameras[chosen], renders, references, lambda count: progress.advance(fixing, count), part
                    )
                with timer("storing"):
                    facts = nearest[chosen], distances[chosen, 0].tolist()
                    of_views = zip(cameras[chosen], renders, accumulations, fixed, *facts, strict=True)
                    fixes = [NovelViewFix(*of_view) for of_view in of_views]
                    vetted = self._vet(step, fixes, reliability, part.start)
                    shown |= panels(fixes, vetted, references, part.start)
                    add(vetted)
                    del renders, accumulations, references, fixed, fixes, of_views, vetted
                    give_back_freed_memory()
        for name, image in shown.items():
            writer.put_image(name=name, image=image, step=step)
        views = bank.newest
        assert views is not None
        return views

    def _vet(self, step: int, fixes: list[NovelViewFix], reliability: float, first_target: int) -> PseudoViewSet:
        config = self.config
        how = config.trust, config.confidence, config.match_colors, config.min_accumulation
        return vet(step, fixes, *how, reliability, first_target)

    def clean(
        self,
        cameras: list[Cameras],
        renders: list[Tensor],
        references: list[Tensor | None],
        on_progress: Callable[[int], None] | None = None,
        targets: range | None = None,
    ) -> list[Tensor]:
        """Cleans renders; NaN takes the place of what the network cannot make a picture of.

        Args:
            cameras: the renders' cameras, shape (1,) each.
            renders: images in [0, 1].
            references: a photo in [0, 1] for each, or None.
            on_progress: called with the number of images of every finished batch.
            targets: indices of the novel views' targets; None for renders of the photos' own views.
        """
        return self._enhancer.fixer.fix(renders, references, on_progress, keep_broken=True)
