"""The four published strategies to make degraded renders of views with photos (arXiv 2503.01774, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from difix3d_ns.curation.curate_options import CurateConfig, StrategyName
from difix3d_ns.curation.pairs import Pairs, pair_entry
from difix3d_ns.curation.references import ReferencePictures
from difix3d_ns.curation.scenes import Scene
from difix3d_ns.curation.shifted_paths import photographed_from_aside
from difix3d_ns.curation.splits import Split, split_for
from difix3d_ns.curation.training import TrainingSettings, train_splat
from difix3d_ns.curation.views import PhotoView, photo_views, render, save_picture, with_masked_pixels_of_photo
from difix3d_ns.printing import say

UNDERFIT_FRACTIONS = (0.25, 0.5, 0.75)
"""Fractions of a complete training after which an underfitted model is rendered."""


@dataclass(frozen=True)
class Task:
    """One strategy applied to one scene."""

    scene: Scene
    strategy: StrategyName
    folder: Path
    """Folder for the images of the pairs. Its subfolder `training` holds what is not needed afterwards."""
    config: CurateConfig
    """Options of the curation."""

    @cached_property
    def split(self) -> Split:
        """The photos to train on and to hold out."""
        return split_for(self.strategy, self.scene, self.config.every)

    @property
    def settings(self) -> TrainingSettings:
        """Settings of its trainings."""
        config = self.config
        return TrainingSettings(config.method, config.num_iterations, config.image_scale, config.seed, config.fixer)


def sparse_reconstruction(task: Task) -> Pairs:
    """Trains on few photos, and renders the held-out views."""
    return _reconstruct(task, (task.settings.whole_training(),))


def cross_reference(task: Task) -> Pairs:
    """Trains on the photos of one camera of a rig, and renders the views of the other cameras."""
    return _reconstruct(task, (task.settings.whole_training(),))


def model_underfitting(task: Task) -> Pairs:
    """Renders the training and held-out views before the training is finished."""
    whole = task.settings.whole_training()
    steps = task.config.snapshot_steps or tuple(int(whole * fraction) for fraction in UNDERFIT_FRACTIONS)
    return _reconstruct(task, steps, with_training_views=True)


def cycle_reconstruction(task: Task) -> Pairs:
    """Trains on the photos, renders shifted views, trains on these renders, and renders the original views."""
    split = task.split
    names = task.scene.name_of_photo()
    whole = task.settings.whole_training()
    training = task.folder / "training"
    photos: list[PhotoView] = []
    shifted_scene: dict = {}
    pairs: Pairs = {}

    def render_shifted_path(pipeline: VanillaPipeline, step: int) -> None:
        photos.extend(photo_views(pipeline, "train", names, task.folder / "photos"))
        shifted_scene.update(photographed_from_aside(pipeline, photos, training / "shifted", task.config.cycle_shift))

    def render_photos_cameras(pipeline: VanillaPipeline, step: int) -> None:
        pairs.update(_render_pairs(task, pipeline, photos, ReferencePictures(task.config.references, photos), step))

    transforms = task.scene.split_transforms(split.train, split.held_out)
    points = task.scene.points
    train_splat(transforms, training / "first", task.settings, (whole,), render_shifted_path, points=points)
    train_splat(shifted_scene, training / "second", task.settings, (whole,), render_photos_cameras, poses_as_given=True)
    return pairs


STRATEGIES: dict[StrategyName, Callable[[Task], Pairs]] = {
    "sparse": sparse_reconstruction,
    "cycle": cycle_reconstruction,
    "underfit": model_underfitting,
    "cross-reference": cross_reference,
}
"""The function that makes the pairs of each strategy."""


def _reconstruct(task: Task, steps: Sequence[int], with_training_views: bool = False) -> Pairs:
    """Trains once, and renders the held-out views at each of the steps, optionally with the training views."""
    split = task.split
    names = task.scene.name_of_photo()
    pairs: Pairs = {}
    references: list[ReferencePictures] = []

    def render_cameras(pipeline: VanillaPipeline, step: int) -> None:
        photos = photo_views(pipeline, "train", names, task.folder / "photos")
        rendered = photo_views(pipeline, "eval", names, task.folder / "photos") if split.held_out else []
        rendered += photos if with_training_views else []
        if not references:  # one for all steps, so that photos are matched once
            references.append(ReferencePictures(task.config.references, photos))
        pairs.update(_render_pairs(task, pipeline, rendered, references[0], step))

    transforms = task.scene.split_transforms(split.train, split.held_out)
    folder = task.folder / "training" / "run"
    train_splat(transforms, folder, task.settings, steps, render_cameras, points=task.scene.points)
    return pairs


def _render_pairs(
    task: Task,
    pipeline: VanillaPipeline,
    views: Sequence[PhotoView],
    references: ReferencePictures,
    step: int,
) -> Pairs:
    """Renders views, and pairs each render with its photo and a reference that shows nothing of this photo."""
    names, split = task.scene.name_of_photo(), task.split
    pairs: Pairs = {}
    for view in views:
        name = names[str(view.photo)]
        image = task.folder / "renders" / f"{name}-step-{step}.png"
        outputs = render(pipeline, view.camera)
        save_picture(with_masked_pixels_of_photo(outputs["rgb"], view), image)
        aligned = task.folder / "references" / image.name
        reference, facts = references.reference_of(view, outputs, pipeline, step, aligned)
        how = {
            "scene": task.scene.name,
            "strategy": task.strategy,
            "step": step,
            "whole_training": task.settings.whole_training(),
            "training_photos": len(split.train),
            "trained_on_this_photo": str(view.photo) in split.train,
            "method": task.config.method,
            "fixer": task.config.fixer,
            "seed": task.config.seed,
            **facts,
        }
        pairs[f"{task.scene.name}-{task.strategy}-{name}-{step}"] = pair_entry(image, view.picture, reference, how)
    say(f"{task.scene.name}, {task.strategy}: rendered {len(pairs)} views at step {step}.")
    return pairs
