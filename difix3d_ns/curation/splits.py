"""Decides which photos a strategy trains on and which it holds out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from difix3d_ns.curation.curate_options import StrategyName
from difix3d_ns.curation.rigs import photos_by_camera
from difix3d_ns.curation.scenes import Scene
from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import advice_on_missing_photo

MIN_TRAINING_PHOTOS = 2


class NotApplicableError(Difix3DError):
    """A strategy does not apply to a scene. This is not a failure, and the other strategies continue."""


@dataclass(frozen=True)
class Split:
    """The photos of a scene, split into training and held-out photos."""

    train: tuple[str, ...]
    """Photos to train on."""
    held_out: tuple[str, ...]
    """Photos that training does not see."""


def split_for(strategy: StrategyName, scene: Scene, every: int) -> Split:
    """Splits the photos of a scene for a strategy.

    Args:
        strategy: the strategy.
        scene: the scene.
        every: see `CurateConfig.every`.

    Raises:
        NotApplicableError: the strategy does not apply to this scene.
        Difix3DError: the scene has too few photos, or some are missing.
    """
    if strategy == "sparse":
        return sparse_split(scene, every)
    if strategy == "underfit":
        return underfit_split(scene, every)
    return cycle_split(scene) if strategy == "cycle" else cross_reference_split(scene)


def sparse_split(scene: Scene, every: int) -> Split:
    """Trains on few photos: those that the scene lists, or else every `every`-th.

    Raises:
        Difix3DError: too few photos to train on, or none to hold out.
    """
    trained = scene.listed_training_photos or scene.photos[::every]
    return _checked(scene, "sparse", trained, advice=f"lower --every, now {every}, or list its train_filenames")


def underfit_split(scene: Scene, every: int) -> Split:
    """Trains on most photos: those that the scene lists, or else all except every `every`-th.

    Raises:
        Difix3DError: too few photos to train on.
    """
    without_every = tuple(photo for index, photo in enumerate(scene.photos) if index % every)
    trained = scene.listed_training_photos or without_every
    return _checked(scene, "underfit", trained, advice="give a scene with more photos", must_hold_out=False)


def cycle_split(scene: Scene) -> Split:
    """Trains on all photos that the scene lists, or else on all its photos.

    Raises:
        Difix3DError: too few photos to train on.
    """
    trained = scene.listed_training_photos or scene.photos
    return _checked(scene, "cycle", trained, advice="give a scene with more photos", must_hold_out=False)


def cross_reference_split(scene: Scene) -> Split:
    """Trains on the photos of the camera that took the most, and holds out those of all other cameras.

    Raises:
        NotApplicableError: a single camera took all photos.
        Difix3DError: no camera took enough photos to train on.
    """
    try:
        cameras = photos_by_camera(scene.transforms)
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise Difix3DError(
            f"the cameras of the scene {scene.path} cannot be distinguished: {reason_of(error)}."
        ) from error
    if len(cameras) == 1:
        raise NotApplicableError(f"the scene {scene.path} was taken by one camera, so cross-reference does not apply.")
    trained = tuple(next(iter(cameras.values())))
    return _checked(scene, "cross-reference", trained, advice="give a scene with more photos per camera")


def _checked(scene: Scene, strategy: str, trained: tuple[str, ...], advice: str, must_hold_out: bool = True) -> Split:
    held_out = tuple(photo for photo in scene.photos if photo not in set(trained))
    if len(trained) < MIN_TRAINING_PHOTOS or (must_hold_out and not held_out):
        raise Difix3DError(
            f"the scene {scene.path} has too few photos for {strategy}: {len(trained)} to train on (at least "
            f"{MIN_TRAINING_PHOTOS} are needed) and {len(held_out) or 'none'} to hold out; {advice}."
        )
    folder = scene.path.parent if scene.path.suffix == ".json" else scene.path
    missing = [photo for photo in (*trained, *held_out) if not Path(photo).exists()]
    if missing:
        raise Difix3DError(
            f"{len(missing)} of {len(scene.photos)} photos of {scene.path} are missing, the first is {missing[0]}: "
            f"{advice_on_missing_photo(Path(missing[0]), folder)}, or remove its frame."
        )
    return Split(tuple(trained), held_out)
