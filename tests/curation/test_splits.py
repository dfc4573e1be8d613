"""Which photos each strategy trains on, and how photos are grouped by camera."""

from __future__ import annotations

from pathlib import Path

import pytest

from difix3d_ns.curation.rigs import photos_by_camera
from difix3d_ns.curation.splits import (
    NotApplicableError,
    cross_reference_split,
    cycle_split,
    sparse_split,
    underfit_split,
)
from difix3d_ns.errors import Difix3DError

NINE = [{"file_path": f"images/{index}.jpg"} for index in range(9)]


def stems(photos: tuple[str, ...]) -> str:
    return "".join(Path(photo).stem for photo in photos)


def test_sparse_trains_on_every_nth_photo_and_underfit_on_the_others(scene_of) -> None:
    scene = scene_of(NINE)
    assert stems(sparse_split(scene, 4).train) == "048" and stems(sparse_split(scene, 4).held_out) == "123567"
    assert stems(underfit_split(scene, 4).held_out) == "048"
    assert stems(cycle_split(scene).train) == "012345678"


def test_listed_photos_are_trained_on(scene_of) -> None:
    scene = scene_of(NINE, listed=("images/1.jpg", "images/2.jpg"))
    for split in (sparse_split(scene, 4), underfit_split(scene, 4), cycle_split(scene)):
        assert stems(split.train) == "12" and stems(split.held_out) == "0345678"


def test_too_few_photos_are_refused_with_advice(scene_of) -> None:
    scene = scene_of(NINE[:3])
    with pytest.raises(Difix3DError, match=r"too few photos for sparse: 1 to train on .* lower --every"):
        sparse_split(scene, 8)
    with pytest.raises(Difix3DError, match="none to hold out"):
        sparse_split(scene_of(NINE[:2], listed=("images/0.jpg", "images/1.jpg")), 8)
    with pytest.raises(Difix3DError, match="too few photos for cycle"):
        cycle_split(scene_of(NINE[:1]))


def test_a_missing_photo_is_named_before_any_training(scene_of) -> None:
    scene = scene_of(NINE)
    Path(scene.photos[5]).unlink()
    with pytest.raises(Difix3DError, match=f"1 of 9 photos .* {scene.photos[5]}"):
        cycle_split(scene)


def rig(**property_of_frame: list) -> dict:
    """Transforms of four photos whose frames have these entries."""
    frames = [{"file_path": f"images/{index}.jpg"} for index in range(4)]
    for key, values in property_of_frame.items():
        for frame, value in zip(frames, values, strict=True):
            frame[key] = value
    return {"frames": frames}


@pytest.mark.parametrize(
    "transforms",
    [
        rig(camera_label=["front", "front", "front", "back"], w=[1, 2, 3, 4]),
        rig(colmap_camera_id=[1, 1, 1, 2]),
        rig(file_path=["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg"]),
        rig(w=[360, 359, 360, 480], h=[480, 480, 480, 360], fl_x=[397, 401, 405, 400]),
        rig(w=[360] * 4, h=[480] * 4, fl_x=[397, 401, 405, 800]),
    ],
    ids=["label", "camera id", "folder", "size", "focal length"],
)
def test_the_camera_of_most_photos_comes_first(transforms: dict) -> None:
    assert [len(photos) for photos in photos_by_camera(transforms).values()] == [3, 1]


@pytest.mark.parametrize(
    "transforms",
    [
        rig(colmap_camera_id=[1, 2, 3, 4], fl_x=[397, 401, 405, 400]),
        rig(camera_id=[7, 7, 7, 7], file_path=["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]),
        {**rig(w=[1, 2, 3, 4]), "w": 480, "h": 360, "fl_x": 400.0},
    ],
    ids=["calibrated photo by photo", "one camera in two folders", "one size for all photos"],
)
def test_photos_of_one_camera_stay_together(transforms: dict) -> None:
    assert len(photos_by_camera(transforms)) == 1


def test_cross_reference_trains_on_one_camera_and_holds_out_the_others(scene_of) -> None:
    split = cross_reference_split(scene_of(rig(camera_label=["b", "a", "a", "a"])["frames"]))
    assert stems(split.train) == "123" and stems(split.held_out) == "0"


def test_cross_reference_does_not_apply_to_a_single_camera(scene_of) -> None:
    with pytest.raises(NotApplicableError, match="was taken by one camera"):
        cross_reference_split(scene_of(NINE))
