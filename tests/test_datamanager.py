"""Training with photos and pseudo views, and the errors for scenes that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig

from difix3d_ns.cameras.poses import camera_with_pose
from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.difix.errors import DifixMemoryError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet


def datamanager(scene: Path, **settings) -> Difix3DDataManager:
    parser = NerfstudioDataParserConfig(load_3D_points=True, downscale_factor=1)
    config = Difix3DDataManagerConfig(data=scene, dataparser=parser, cache_images_type="uint8", **settings)
    return Difix3DDataManager(config, device="cpu")


def with_pseudo_views(manager: Difix3DDataManager, count: int = 2) -> Difix3DDataManager:
    camera = manager.eval_dataset.cameras[0:1]
    view = PseudoView(
        camera=camera_with_pose(camera, camera.camera_to_worlds[0]),
        image=torch.zeros((319, 480, 3), dtype=torch.uint8),
        confidence=torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(319 * 160).reshape(319, 480, 1),
        reference=0,
        target=0,
        reliability=0.0,
    )
    manager.pseudo_views.add(PseudoViewSet(0, [replace(view, target=target) for target in range(count)]))
    return manager


def test_farthest_point_sampling_of_few_photos_is_refused_by_its_option(banana: Path) -> None:
    with pytest.raises(Difix3DError, match=r"train-cameras-sampling-strategy fps needs at least 8 .* this scene has 3"):
        datamanager(banana, train_cameras_sampling_strategy="fps")


def test_without_pseudo_views_every_step_gets_a_photo(banana: Path) -> None:
    manager = datamanager(banana, pseudo_view_probability=1.0)
    assert all("pseudo_view" not in manager.next_train(step)[1] for step in range(5))


def test_pseudo_views_are_drawn_with_the_configured_probability(banana: Path) -> None:
    manager = with_pseudo_views(datamanager(banana, pseudo_view_probability=0.3))
    drawn = [manager.next_train(step)[1].get("pseudo_view") for step in range(600)]
    share = sum(index is not None for index in drawn) / len(drawn)
    assert 0.22 < share < 0.38
    assert {0, 1} <= set(drawn)


def test_a_resumed_run_draws_the_same_views_as_an_uninterrupted_one(banana: Path) -> None:
    whole, resumed = (with_pseudo_views(datamanager(banana)) for _ in range(2))
    drawn = [whole.next_train(step)[1].get("pseudo_view") for step in range(60)]
    assert [resumed.next_train(step)[1].get("pseudo_view") for step in range(40, 60)] == drawn[40:]


def test_a_pseudo_view_has_its_camera_and_a_mask_of_the_pixels_that_teach(banana: Path) -> None:
    manager = with_pseudo_views(datamanager(banana, pseudo_view_probability=1.0))
    camera, batch = manager.next_train(0)
    assert torch.equal(camera.camera_to_worlds, manager.eval_dataset.cameras.camera_to_worlds[0:1])
    assert batch["image"].shape == (319, 480, 3) and batch["mask"].shape == (319, 480, 1)
    assert batch["confidence"][0, :3, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert batch["mask"][0, :3, 0].tolist() == [False, True, True]


def test_a_photo_is_the_same_from_memory_and_from_disk(banana: Path) -> None:
    manager = datamanager(banana)
    from_disk = manager.training_photo(1)
    assert len(manager.cached_train) == 3
    assert torch.allclose(manager.training_photo(1), from_disk, atol=1e-6)


def test_a_missing_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match="nowhere"):
        datamanager(tmp_path / "nowhere")


def test_a_folder_without_transforms_is_named(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match=r"transforms\.json"):
        datamanager(tmp_path)


def test_a_scene_without_photos_is_refused(edit_transforms) -> None:
    def drop_all(transforms: dict) -> None:
        transforms.update(frames=[], train_filenames=[], val_filenames=[], test_filenames=[])

    with pytest.raises(Difix3DError, match="lists no photos"):
        datamanager(edit_transforms(drop_all))


def test_one_training_photo_is_refused(edit_transforms) -> None:
    def keep_one(transforms: dict) -> None:
        transforms["train_filenames"] = transforms["train_filenames"][:1]

    with pytest.raises(Difix3DError, match="1 training photo: a reconstruction needs at least 2"):
        datamanager(edit_transforms(keep_one))


def test_a_missing_photo_is_named(edit_transforms, banana_copy: Path) -> None:
    path = edit_transforms(lambda transforms: None)
    missing = banana_copy / json.loads(path.read_text())["train_filenames"][-1]
    missing.unlink()
    with pytest.raises(Difix3DError, match=missing.name):
        datamanager(path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_missing_list_of_held_out_photos_is_named_and_the_other_one_is_used(
    edit_transforms, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out: list[str] = []

    def change(transforms: dict) -> None:
        held_out.extend(transforms.pop(f"{split}_filenames"))

    scene = edit_transforms(change)
    for mode in ("val", "test", "inference"):
        config = Difix3DDataManagerConfig(data=scene, dataparser=NerfstudioDataParserConfig(downscale_factor=1))
        manager = Difix3DDataManager(config, test_mode=mode)
        assert {file.name for file in manager.eval_dataset.image_filenames} == {Path(name).name for name in held_out}
        said = " ".join(capsys.readouterr().out.split())
        other = {"val": "test", "test": "val"}[split]
        assert f"has no `{split}_filenames`. Its {other} photos are used for {split} too." in said
        # config.yml names nerfstudio's own dataparser.
        assert manager.config is config and config.dataparser._target is Nerfstudio


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        (("val", "test"), "has `train_filenames` but neither `val_filenames` nor `test_filenames`: add one of them"),
        (("train",), "has `val_filenames` and `test_filenames` but no `train_filenames`: add one"),
    ],
)
def test_lists_of_photos_without_training_or_held_out_photos_are_refused(
    edit_transforms, left_out: tuple[str, ...], sentence: str
) -> None:
    def change(transforms: dict) -> None:
        for split in left_out:
            del transforms[f"{split}_filenames"]

    with pytest.raises(Difix3DError, match=sentence):
        datamanager(edit_transforms(change))


def of_windows(transforms: dict) -> None:
    for key in ("train_filenames", "val_filenames", "test_filenames"):
        transforms[key] = [name.replace("/", "\\") for name in transforms[key]]
    for frame in transforms["frames"]:
        frame["file_path"] = f".\\{frame['file_path']}".replace("/", "\\")
    transforms["ply_file_path"] = f".\\{transforms['ply_file_path']}"


def test_paths_of_windows_are_understood(edit_transforms) -> None:
    manager = datamanager(edit_transforms(of_windows))
    assert len(manager.train_dataset) == 3 and len(manager.eval_dataset) == 5
    assert all(file.exists() for file in manager.train_dataset.image_filenames)
    assert len(manager.train_dataparser_outputs.metadata["points3D_xyz"]) > 0


def missing_name(name: str):
    def change(transforms: dict) -> None:
        first = min(transforms["frames"], key=lambda frame: frame["file_path"])
        first["file_path"] = name
        transforms.update(train_filenames=[name], val_filenames=[name], test_filenames=[name])

    return change


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("/old/banana/images/DSC_0423.jpg", r"/images/DSC_0423\.jpg exists: if the scene was moved, make the paths"),
        ("images/DSC_0423", r"a file DSC_0423\.jpg is there: add the extension"),
        ("images/dsc_0423.JPG", r"its name there is DSC_0423\.jpg: correct it"),
        ("images/nothing.jpg", "put it back or correct the scene's file"),
    ],
)
@pytest.mark.parametrize("factor", [None, 1])
def test_a_photo_that_is_not_where_the_scene_says_is_named_with_what_to_do(
    edit_transforms, name: str, advice: str, factor: int | None
) -> None:
    config = Difix3DDataManagerConfig(
        data=edit_transforms(missing_name(name)), dataparser=NerfstudioDataParserConfig(downscale_factor=factor)
    )
    with pytest.raises(Difix3DError, match=rf"{name.rpartition('/')[2]}.*{advice}") as caught:
        Difix3DDataManager(config)
    assert "Errno" not in str(caught.value)


def test_a_missing_folder_of_smaller_photos_names_the_option_that_asks_for_it(banana: Path) -> None:
    config = Difix3DDataManagerConfig(data=banana, dataparser=NerfstudioDataParserConfig(downscale_factor=16))
    with pytest.raises(Difix3DError, match=r"there is no folder .*images_16: put it back, or, if --downscale-factor"):
        Difix3DDataManager(config)


def only_angle(transforms: dict) -> None:
    transforms["camera_angle_x"] = 0.6
    for key in ("fl_x", "fl_y", "cx", "cy"):
        del transforms[key]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            only_angle,
            r"DSC_0424\.jpg .* has no `fl_x` and `fl_y` and `cx` and `cy` but only `camera_angle_x`, .*append "
            r"instant-ngp-data to the ns-train command, or add the missing keys \(`fl_x` and `fl_y` are 775\.85\)",
        ),
        (lambda scene: scene.pop("h"), r"DSC_0424\.jpg of .* has no `h`: add them to its frame, or to the top"),
        (lambda scene: scene.update(k4=0.1), r"DSC_0426\.jpg of .* has the distortion parameter `k4`.*: undistort"),
        (
            lambda scene: scene.update(camera_model="FOO"),
            "the `camera_model` FOO, which nerfstudio does not know: give",
        ),
        (lambda scene: scene.update(camera_model=[]), r"the `camera_model` \[\], which nerfstudio does not know: give"),
        (lambda scene: scene.update(camera_model="EQUIRECTANGULAR"), r"first is images/DSC_0424\.jpg: difix3d needs"),
        (
            lambda scene: scene["frames"][0].update(transform_matrix=[[1, 0, 0, 0]] * 3),
            r"DSC_0424\.jpg .* has a `transform_matrix` that is no pose: give 4 rows of 4 numbers",
        ),
        (
            lambda scene: scene.update(applied_transform=[[1, 0, 0, 0]] * 4),
            "an unusable `applied_transform`: give 3 rows of 4 numbers",
        ),
        (
            lambda scene: scene.update(train_filenames=["DSC_0424.jpg"]),
            r"lists DSC_0424\.jpg in `train_filenames`, but has no frame for it: write the photo's `file_path`",
        ),
        (
            lambda scene: (scene.pop("camera_model"), scene["frames"][0].update(camera_model="EQUIRECTANGULAR")),
            "name their own `camera_model`, .*: move it from the frames to the top of the file",
        ),
        (lambda scene: scene["frames"][0].pop("file_path"), "a frame without `file_path`: name its photo"),
        (
            lambda scene: scene["frames"][0].update(file_path="/"),
            "a frame whose `file_path` / is no file: name its photo",
        ),
        (
            lambda scene: scene["frames"][0].pop("transform_matrix"),
            r"DSC_0424\.jpg .*no `transform_matrix`: add its pose",
        ),
        (lambda scene: scene["frames"][1].update(mask_path="m.png"), r"DSC_0424\.jpg .* no `mask_path`, but others"),
        (
            lambda scene: [frame.update(mask_path="m.png") for frame in scene["frames"]],
            r"3 of 3 masks of training photos .* are missing, the first is .*m\.png: put it back",
        ),
    ],
)
def test_a_scene_that_nerfstudio_cannot_use_is_refused_with_the_photo_the_key_and_the_remedy(
    edit_transforms, change, sentence: str
) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        datamanager(edit_transforms(change))


def test_missing_start_points_are_reported(edit_transforms, capsys: pytest.CaptureFixture[str]) -> None:
    datamanager(edit_transforms(lambda scene: scene.update(ply_file_path="nowhere.ply")))
    said = " ".join(capsys.readouterr().out.split())
    assert "nowhere.ply, named by `ply_file_path`, are missing. Training starts from random points" in said


def test_the_scene_of_a_run_that_is_missing_is_named_with_what_to_do() -> None:
    config = Difix3DDataManagerConfig(data=Path("data/moved"), dataparser=NerfstudioDataParserConfig())
    with pytest.raises(Difix3DError, match=r"run the command in the folder where ns-train was run, .* as --data"):
        Difix3DDataManager(config, test_mode="inference")
    with pytest.raises(Difix3DError, match=r"the scene data/moved .*does not exist: correct --data\.$"):
        Difix3DDataManager(config, test_mode="val")


@pytest.mark.parametrize(
    ("words", "is_full"),
    [("CUDA out of memory. Tried 2 GiB.", True), ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True), ("bad", False)],
)
def test_a_full_memory_is_not_taken_for_an_unreadable_scene(
    banana: Path, monkeypatch: pytest.MonkeyPatch, words: str, is_full: bool
) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError(words)

    manager = datamanager(banana)
    monkeypatch.setattr(manager.train_dataset, "get_data", fail)
    expected, sentence = (DifixMemoryError, "the memory is full") if is_full else (Difix3DError, "cannot be read: bad")
    with pytest.raises(expected, match=sentence):
        manager.next_train(0)


def test_a_broken_photo_is_named(edit_transforms, banana_copy: Path) -> None:
    path = edit_transforms(lambda transforms: None)
    broken = banana_copy / json.loads(path.read_text())["train_filenames"][0]
    broken.write_bytes(b"no photo")
    manager = datamanager(path)
    with pytest.raises(Difix3DError, match=broken.name):
        manager.next_train(0)


def test_a_photo_with_nan_is_named(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = datamanager(banana)
    get_data = manager.train_dataset.get_data

    def with_nan(index: int, image_type: str) -> dict:
        data = get_data(index, image_type="float32")
        data["image"][0, 0, 0] = float("nan")
        return data

    monkeypatch.setattr(manager.train_dataset, "get_data", with_nan)
    with pytest.raises(Difix3DError, match=r"DSC_\d+\.jpg contains NaN"):
        manager.next_train(0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_pose_with_nan_or_infinity_is_refused(edit_transforms, number: float) -> None:
    def damage(scene: dict) -> None:
        scene["frames"][4]["transform_matrix"][0][3] = number

    with pytest.raises(Difix3DError, match="one of its poses contains NaN or infinite values"):
        datamanager(edit_transforms(damage))


@pytest.mark.parametrize("focal", [0.0, -50.0, float("nan"), float("inf")])
def test_a_camera_with_an_invalid_focal_length_is_named(edit_transforms, focal: float) -> None:
    with pytest.raises(Difix3DError, match=r"DSC_0426\.jpg is invalid: its focal lengths are"):
        datamanager(edit_transforms(lambda scene: scene.update(fl_x=focal)))
