"""One progressive update: the fixer is tested at photos; novel views are rendered, cleaned, vetted and stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import writer
from torch import Tensor

from difix3d_ns.alignment.unseen import blur_unseen, for_lookup
from difix3d_ns.alignment.views import AlignmentView, alignment_view, is_perspective
from difix3d_ns.cameras.poses import camera_with_pose, k_nearest_poses, spread_indices
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.novel_views.renders import MAX_PIXELS_AT_ONCE, Render, Renderer, in_parts, render_novel_views
from difix3d_ns.novel_views.report import PartTimer, panels
from difix3d_ns.novel_views.training_views import TrainingViews
from difix3d_ns.novel_views.walk import NovelViewWalk
from difix3d_ns.progress import progress_bars
from difix3d_ns.pseudo_views.memory import give_back_freed_memory
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER, PseudoViewSet
from difix3d_ns.resuming.checkpoints import saved_steps
from difix3d_ns.vetting.reliability import error_removed, nearest_others
from difix3d_ns.vetting.vet import NovelViewFix, Vetting, VettingConfig


class NothingCleanedError(Difix3DError):
    """The fixer could not clean any of the novel views, for example because its network does not fit into memory."""


class ProgressiveUpdate:
    """Fixes the novel views of a run (arXiv 2503.01774, section 4.2).

    Args:
        config: how fixed views are vetted. It may change between fixes.
        model: renders novel views.
        datamanager: provides the photos, and the bank that receives the fixed views.
        enhancer: chooses references and provides the fixer.
        walk: the novel views' poses.
        unit: length in scene units that counts as much as one radian.
        run_folder: where fixed views are saved for a resume.
        checkpoint_folder: the run's folder of checkpoints; None if there is none.
        background: colour in [0, 1] behind novel views; None for that of the model.
    """

    def __init__(
        self,
        config: VettingConfig,
        model: Renderer,
        datamanager: TrainingViews,
        enhancer: RenderEnhancer,
        walk: NovelViewWalk,
        unit: float,
        run_folder: Path,
        background: Float[Tensor, "3"] | None = None,
        checkpoint_folder: Path | None = None,
    ) -> None:
        self._config = config
        self._model = model
        self._datamanager = datamanager
        self._enhancer = enhancer
        self._walk = walk
        self._unit = unit
        self._folder = run_folder / PSEUDO_VIEW_FOLDER
        self._background = background
        self._checkpoint_folder = checkpoint_folder

    def test_fixer(self, step: int) -> float:
        """Measures the fixer's reliability in [0, 1]: the share of the renders' error at some photos that it removes.

        Args:
            step: the next training step.

        Raises:
            Difix3DError: a render contains NaN, so training has diverged.
        """
        poses = self._datamanager.train_camera_to_worlds
        indices = spread_indices(len(poses), self._config.reliability.num_photos)
        cameras = self._cameras_of_photos(indices)
        plain = [render.rgb for render in render_novel_views(self._model, cameras, step)]
        # As training compares them with photos. The network's output is not corrected again, because corrections are
        # learnt for renders only.
        renders = [self._model.in_colors_of_photo(image, index) for image, index in zip(plain, indices, strict=True)]
        references = self._enhancer.aligned_references(renders, cameras, without=indices)
        if references is None:
            references = self._datamanager.training_photos(nearest_others(poses, indices, self._unit))
        cleaned = self._enhancer.fixer.clean(renders, references, cameras, keep_broken=True)
        masks = [self._datamanager.training_mask(index) for index in indices]
        return error_removed(renders, cleaned, self._datamanager.training_photos(indices), masks)

    def _cameras_of_photos(self, indices: Iterable[int]) -> list[Cameras]:
        """Cameras of training photos as the model has corrected them, shape (1,) each."""
        photos, poses = self._datamanager.train_dataset.cameras, self._datamanager.train_camera_to_worlds
        return [
            self._model.camera_of_photo(camera_with_pose(photos[index : index + 1], poses[index]), index)
            for index in indices
        ]

    def _surfaces_of_photos(self, step: int) -> list[AlignmentView]:
        """The surfaces that the training photos show; empty if their renders have no depth to find them by."""
        surfaces = []
        # One by one, because the full renders of many photos do not fit into memory together.
        for index, camera in enumerate(self._cameras_of_photos(range(len(self._datamanager.train_dataset)))):
            (render,) = render_novel_views(self._model, [camera], step, first=index)
            mask, device = self._datamanager.training_mask(index), self._enhancer.fixer.device
            found = _surfaces_of(render, camera, device, mask)
            if found is None:
                return []
            surfaces.append(found)
        return surfaces

    def fix(
        self, step: int, reliability: float, timer: PartTimer, clean: bool = True, blurs_unseen: bool = False
    ) -> PseudoViewSet:
        """Moves the novel views a step on, renders and cleans them, and makes the trusted ones the pseudo views.

        Args:
            step: the next training step.
            reliability: of the fixer, in [0, 1]; 0 for views that are not cleaned.
            timer: measures how long rendering, choosing references, cleaning and storing take.
            clean: whether the fixer cleans the renders. Otherwise they become pseudo views as they are.
            blurs_unseen: whether they are blurred where they show what no photo shows; see `blur_unseen`.

        Returns:
            The fixed views, which are now the newest pseudo views.

        Raises:
            NothingCleanedError: the fixer could not clean any view. The novel views have moved; the pseudo views are
                those of before.
            Difix3DError: a render contains NaN, so training has diverged.
        """
        self._walk.advance()
        cameras = self._walk.cameras()
        with timer("choosing references"):
            nearest = self._enhancer.choose_references(cameras) if clean else [None] * len(cameras)
        bank, fixer, vetting = self._datamanager.pseudo_views, self._enhancer.fixer, Vetting(self._config)
        distances = k_nearest_poses(self._walk.poses, self._datamanager.train_camera_to_worlds, 1, self._unit)[0]
        with timer("rendering"):
            photos = self._surfaces_of_photos(step) if blurs_unseen else []
        shown: dict[str, Tensor] = {}
        num_cleaned = 0
        # Thousands of novel views do not fit into memory together, so they are fixed part by part.
        max_pixels = max(MAX_PIXELS_AT_ONCE, fixer.config.max_pixels_per_batch)
        checkpoints = [] if self._checkpoint_folder is None else saved_steps(self._checkpoint_folder)
        with progress_bars() as progress, bank.incoming(step, self._folder, checkpoints) as add:
            rendering = progress.add_task("[green]Rendering novel views", total=len(cameras))
            fixing = progress.add_task("[green]Fixing novel views", total=len(cameras), visible=clean)
            for part in in_parts(cameras, max_pixels):
                chosen = slice(part.start, part.stop)
                with timer("rendering"):
                    found = render_novel_views(
                        self._model,
                        cameras[chosen],
                        step,
                        lambda: progress.advance(rendering),
                        part.start,
                        self._background,
                    )
                    renders = [render.rgb for render in found]
                with timer("choosing references"):
                    references = self._enhancer.aligned_references(renders, cameras[chosen]) if clean else None
                    if references is None:
                        references = self._datamanager.training_photos(nearest[chosen])
                fixed = renders
                if clean:
                    with timer("cleaning"):
                        fixed = fixer.clean(
                            renders,
                            references,
                            cameras[chosen],
                            on_progress=lambda count: progress.advance(fixing, count),
                            keep_broken=True,
                        )
                    num_cleaned += sum(bool(image.isfinite().all()) for image in fixed)
                if photos:
                    with timer("blurring"):
                        views = [
                            _surfaces_of(render, camera, fixer.device)
                            for render, camera in zip(found, cameras[chosen], strict=True)
                        ]
                        blurred = [
                            (render, image) if view is None else blur_unseen(render, image, view, photos)
                            for render, image, view in zip(renders, fixed, views, strict=True)
                        ]
                        renders, fixed = zip(*blurred, strict=True)
                with timer("storing"):
                    accumulations = [render.accumulation for render in found]
                    facts = nearest[chosen], distances[chosen, 0].tolist()
                    of_views = zip(cameras[chosen], renders, accumulations, fixed, *facts, strict=True)
                    fixes = [NovelViewFix(*of_view, cleaned=clean) for of_view in of_views]
                    vetted = vetting.vet(fixes, step, reliability, part.start, fixer.device)
                    shown |= panels(fixes, vetted, references, part.start)
                    add(vetted)
                    del found, renders, accumulations, references, fixed, fixes, of_views, vetted
                    give_back_freed_memory()
            if clean and num_cleaned == 0:
                # An empty set must not take the place of views that teach.
                raise NothingCleanedError(f"the network could clean none of the {len(cameras)} novel views.")
        self._enhancer.free_memory()  # the splat will have changed before they are needed again
        for name, image in shown.items():
            writer.put_image(name=name, image=image, step=step)
        views = bank.newest
        assert views is not None
        return views


def _surfaces_of(
    render: Render, camera: Cameras, device: torch.device, mask: Bool[Tensor, "height width 1"] | None = None
) -> AlignmentView | None:
    """The surfaces that a render shows, on a device.

    None if the render has no depth to find them by, or another kind of camera.
    """
    if render.depth is None or not is_perspective(camera):
        return None
    return for_lookup(alignment_view(render.rgb.to(device), camera, render.depth, render.accumulation, mask))
