"""The pipeline: the network it settles on, what it offers nerfstudio's commands, and what it refuses."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from scenes_of_photos import scene_of_photos
from training_runs import StubFixer, before_step, fix_steps, make_pipeline, start_loop, training_callbacks

from difix3d_ns.difix.resolve import ResolvedDifix
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.model import VIEWER_BACKGROUND
from difix3d_ns.resuming.run_record import read_record


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> StubFixer:
    """The fixer of all pipelines of a test."""
    stub = StubFixer()
    monkeypatch.setattr("difix3d_ns.fixing.lazy_fixer.make_fixer", lambda config, device: stub)
    return stub


def test_the_network_that_auto_chooses_is_in_the_runs_config_and_record(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ResolvedDifix(name="embedded", source="somewhere", revision=None, reason="embedded, as there is no GPU")
    monkeypatch.setattr(LazyFixer, "resolve", lambda self: choice)
    pipeline = make_pipeline(banana)
    pipeline.config.difix.model = "auto"
    training_callbacks(pipeline, tmp_path)
    assert pipeline.config.difix.model == "embedded"
    assert read_record(tmp_path).network == "embedded"
    assert "Difix: embedded, as there is no GPU" in capsys.readouterr().out


@pytest.mark.parametrize(("test_mode", "offloads"), [("val", True), ("test", False), ("inference", False)])
def test_only_training_keeps_the_network_off_its_device_between_images(
    banana: Path, test_mode: str, offloads: bool
) -> None:
    settings = DifixConfig(model="identity", strength=0.7, offload=True)
    pipeline = make_pipeline(banana, test_mode, difix=settings)
    assert pipeline.fixer.config == replace(settings, offload=offloads)


@pytest.mark.parametrize(
    ("model", "given", "expected"), [("a/b", None, "3" * 40), ("a/b", "v1", "v1"), ("c/d", None, None)]
)
def test_a_resumed_run_asks_for_the_commit_of_the_earlier_one_unless_another_is_given(
    banana: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    given: str | None,
    expected: str | None,
) -> None:
    def fetch(self: LazyFixer) -> ResolvedDifix:
        choice = self.resolve()
        assert choice.revision == expected
        return replace(choice, revision="4" * 40)

    monkeypatch.setattr(LazyFixer, "fetch", fetch)
    earlier = deepcopy(all_methods["difix3d-mini"])
    earlier.pipeline.difix = DifixConfig(model="a/b", revision="3" * 40)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yml").write_text(yaml.dump(earlier))
    pipeline = make_pipeline(banana, difix=DifixConfig(model=model, revision=given))
    checkpoints = tmp_path / "first" / "nerfstudio_models"
    training_callbacks(pipeline, tmp_path / "second", start_step=30, load_dir=checkpoints)
    assert pipeline.config.difix == pipeline.fixer.config == DifixConfig(model=model, revision="4" * 40)


@pytest.mark.parametrize("settings", [{"fix_novel_views": False}, {"fix_steps": (1,)}])
def test_a_resumed_run_that_fixes_nothing_keeps_the_network_that_auto_chose(
    banana: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    earlier = deepcopy(all_methods["difix3d-mini"])
    earlier.pipeline.difix = DifixConfig(model="a/b", revision="3" * 40)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yml").write_text(yaml.dump(earlier))
    given = DifixConfig(model="auto", strength=0.5)
    pipeline = make_pipeline(banana, difix=given, planned_num_iterations=0, **settings)
    checkpoints = tmp_path / "first" / "nerfstudio_models"
    training_callbacks(pipeline, tmp_path / "second", start_step=30, load_dir=checkpoints)
    expected = DifixConfig(model="a/b", revision="3" * 40, strength=0.5)
    assert pipeline.config.difix == pipeline.fixer.config == expected
    record = read_record(tmp_path / "second")
    assert (record.network, record.revision) == ("a/b", "3" * 40)


def test_a_resumed_run_that_fixes_nothing_keeps_the_base_of_the_network(banana: Path, tmp_path: Path) -> None:
    earlier = deepcopy(all_methods["difix3d-mini"])
    earlier.pipeline.difix = DifixConfig(model="difix.pkl", base="a/turbo")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yml").write_text(yaml.dump(earlier))
    pipeline = make_pipeline(banana, difix=DifixConfig(model="auto"), fix_novel_views=False)
    checkpoints = tmp_path / "first" / "nerfstudio_models"
    training_callbacks(pipeline, tmp_path / "second", start_step=30, load_dir=checkpoints)
    assert pipeline.config.difix == DifixConfig(model="difix.pkl", base="a/turbo")
    record = read_record(tmp_path / "second")
    assert (record.network, record.base) == ("difix.pkl", "a/turbo")


def test_without_fixes_there_is_no_callback_and_no_target_needed(edit_transforms, tmp_path: Path) -> None:
    scene = edit_transforms(lambda transforms: transforms.update(val_filenames=[]))
    assert fix_steps(training_callbacks(make_pipeline(scene, fix_novel_views=False), tmp_path)) == []
    assert not read_record(tmp_path).fixes_novel_views


def test_a_negative_weight_of_pseudo_views_ends_in_one_sentence(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana)
    pipeline.model.config.pseudo_view_loss_weight = -1.0
    with pytest.raises(SystemExit, match=r"--pipeline\.model\.pseudo-view-loss-weight must be 0 or more, not -1"):
        training_callbacks(pipeline, tmp_path)


def test_cuda_on_a_machine_without_it_ends_in_one_sentence(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = deepcopy(all_methods["difix3d-mini"].pipeline)
    config.datamanager.data = banana
    with pytest.raises(SystemExit, match=r"--machine\.device-type cpu"):
        config.setup(device="cuda:0")


def test_training_on_the_cpu_leaves_a_gpu_that_is_there_alone(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(*_: object, **__: object) -> None:
        raise AssertionError("the GPU is used")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touch)
    monkeypatch.setattr(torch.Tensor, "pin_memory", touch)
    pipeline = make_pipeline(banana, fix_steps=(1,), planned_num_iterations=0)
    pipeline.datamanager.config.cache_images = "cpu"  # the default of nerfstudio, which pins photos
    pipeline.datamanager.config.pseudo_view_probability = 1.0
    loop = start_loop(pipeline, tmp_path)
    assert "pseudo_view" not in pipeline.datamanager.next_train(0)[1]
    loop.fix(1)
    assert "pseudo_view" in pipeline.datamanager.next_train(1)[1]


def test_a_checkpoint_with_camera_corrections_names_the_option_that_it_needs(banana: Path) -> None:
    pipeline = make_pipeline(banana)
    state = {**pipeline.state_dict(), "_model.camera_optimizer.pose_adjustment": torch.zeros(3, 6)}
    with pytest.raises(SystemExit, match=r"camera-optimizer\.mode SO3xR3"):
        pipeline.load_pipeline(state, 10)


def test_enhancing_takes_the_nearest_photo_as_reference(banana: Path, stub: StubFixer) -> None:
    pipeline = make_pipeline(banana)
    given: list[torch.Tensor] = []
    stub.clean = lambda renders, references, cameras: given.extend(references) or renders
    cameras = pipeline.datamanager.train_dataset.cameras
    pipeline.eval()
    assert pipeline.model.get_outputs_for_camera(cameras[2:3])["rgb_enhanced"].shape[-1] == 3
    assert torch.equal(given[0], pipeline.datamanager.training_photo(2))


def test_evaluation_renders_each_photo_once_and_gives_raw_and_enhanced_figures(
    banana: Path, alexnet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(banana)
    renders: list[int] = []
    render = pipeline.model.get_outputs_for_camera
    monkeypatch.setattr(pipeline.model, "get_outputs_for_camera", lambda camera: renders.append(1) or render(camera))
    results = pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    assert len(renders) == 5
    names = {"psnr", "ssim", "lpips", "fps", "num_rays_per_sec"}
    names |= {f"{name}_enhanced" for name in names}
    assert results.keys() == names | {f"{name}_std" for name in names}
    assert results["psnr"] != results["psnr_enhanced"]
    assert results["lpips"] != results["lpips_enhanced"]
    assert results["fps"] > results["fps_enhanced"] > 0
    assert {path.name for path in tmp_path.iterdir()} >= {f"eval_img_{index:04d}.png" for index in range(5)}
    in_training = pipeline.get_average_eval_image_metrics(step=10)
    assert in_training.keys() == {"psnr", "ssim", "lpips", "fps", "num_rays_per_sec"}
    assert pipeline.training


def test_gaussians_are_left_out_and_fade_only_if_there_are_few_photos(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for few_photos, until in (("auto", 100), ("no", 0)):
        pipeline = make_pipeline(banana, few_photos=few_photos, fix_novel_views=False)
        training_callbacks(pipeline, tmp_path / few_photos)
        assert pipeline.difix3d_model.dropout_until == until
        assert pipeline.difix3d_model.decays_opacities == (until > 0)
        printed = " ".join(capsys.readouterr().out.split())
        expected = (
            "3 training photos are few: each step leaves out some Gaussians, up to 20% at the end, and makes all "
            "Gaussians a little more transparent. --pipeline.few-photos no trains without this."
        )
        assert (expected in printed) == (until > 0)


@pytest.mark.parametrize("reliability", [0.1, 1.0])
def test_a_splat_of_few_photos_is_held_back_until_the_network_proves_reliable(
    banana: Path, tmp_path: Path, stub: StubFixer, reliability: float
) -> None:
    settings = {"fix_steps": (50,), "planned_num_iterations": 0, "few_photos": "auto"}
    pipeline = make_pipeline(banana, **settings)
    pipeline.config.reliability.test = True
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]

    def clean(renders, references, cameras):
        if len(renders) != 3:
            return renders
        return [render.lerp(photo, reliability) for render, photo in zip(renders, photos, strict=True)]

    stub.clean = clean
    callbacks, model = training_callbacks(pipeline, tmp_path), pipeline.difix3d_model
    model.step = 40
    for step, is_held_back in ((49, True), (50, reliability < 0.5), (51, reliability < 0.5)):
        before_step(callbacks, step)
        assert model.decays_opacities is is_held_back and (model._dropout_rate() > 0) is is_held_back
    resumed = make_pipeline(banana, **settings)
    callbacks = training_callbacks(resumed, tmp_path, start_step=60, load_dir=tmp_path / "nerfstudio_models")
    before_step(callbacks, 60)
    assert resumed.difix3d_model.decays_opacities is (reliability < 0.5)


@pytest.mark.parametrize(
    ("few_photos", "targets", "fix_novel_views", "few"),
    [
        ("auto", "eval", True, True),
        ("no", "eval", True, False),
        ("auto", "interpolate", True, False),
        ("auto", "eval", False, False),
    ],
)
def test_more_photos_count_as_few_if_novel_views_go_far_from_them(
    banana: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few_photos: str,
    targets: str,
    fix_novel_views: bool,
    few: bool,
) -> None:
    monkeypatch.setattr("difix3d_ns.novel_views.few_photos.MAX_FEW_PHOTOS", 2)
    settings = {"few_photos": few_photos, "fix_novel_views": fix_novel_views}
    pipeline = make_pipeline(banana, fix_steps=(50,), planned_num_iterations=0, **settings)
    pipeline.config.targets.kind = targets  # type: ignore[assignment]
    training_callbacks(pipeline, tmp_path)
    assert pipeline.has_few_photos == pipeline.difix3d_model.has_few_photos == few
    assert pipeline.loop is None or pipeline.loop.few_photos == few
    printed = " ".join(capsys.readouterr().out.split())
    expected = "Novel views go far from the 3 training photos, so these count as few: each step leaves out"
    assert (expected in printed) == few


def test_what_few_photos_change_in_the_model_can_be_turned_off(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(banana, fix_novel_views=False)
    pipeline.config.model.gaussian_dropout, pipeline.config.model.opacity_decay = 0.0, 1.0
    pipeline.config.model.few_photos_num_downscales = pipeline.config.model.num_downscales
    training_callbacks(pipeline, tmp_path)
    assert pipeline.difix3d_model.dropout_until == 0 and not pipeline.difix3d_model.decays_opacities
    assert "are few" not in capsys.readouterr().out


def test_few_photos_are_seen_in_full_size_from_the_first_step(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for few_photos, size in (("auto", "full"), ("no", "reduced")):
        pipeline = make_pipeline(banana, few_photos=few_photos, fix_novel_views=False)
        pipeline.config.model.num_downscales, pipeline.config.model.few_photos_num_downscales = 2, 0
        training_callbacks(pipeline, tmp_path / size)
        _, batch = pipeline.datamanager.next_train(0)
        pipeline.train()
        width = pipeline.difix3d_model.get_gt_img(batch["image"]).shape[1]
        assert width == batch["image"].shape[1] // (1 if size == "full" else 4)
        printed = " ".join(capsys.readouterr().out.split())
        assert ("transparent, and sees photos in full size. --pipeline.few-photos no" in printed) == (size == "full")


@pytest.mark.parametrize(
    ("few_photos", "fix_novel_views", "blur_unseen", "blurs"),
    [
        ("auto", False, True, True),
        ("auto", False, False, False),
        ("auto", True, True, False),
        ("no", False, True, False),
    ],
)
def test_the_enhanced_output_of_few_photos_is_blurred_where_none_shows_it_unless_fixes_have_taught_that(
    banana: Path, stub: StubFixer, few_photos: str, fix_novel_views: bool, blur_unseen: bool, blurs: bool
) -> None:
    stub.takes_aligned_references = True  # type: ignore[attr-defined]
    settings = {"few_photos": few_photos, "fix_novel_views": fix_novel_views, "blur_unseen": blur_unseen}
    assert make_pipeline(banana, **settings).enhancer.clears_unseen() is blurs


@pytest.mark.parametrize(("num_photos", "clears"), [(12, True), (50, True), (51, False)])
def test_enhanced_renders_of_more_photos_are_cleared_too_as_views_may_be_far_from_them(
    num_photos: int, clears: bool
) -> None:
    config = replace(all_methods["difix3d-mini"].pipeline, fix_novel_views=False)
    assert config.clears_unseen_in_renders(num_photos) is clears


@pytest.mark.parametrize(("few_photos", "reliability"), [("auto", 0.0), ("auto", 0.6), ("no", 0.0)])
def test_floaters_are_removed_if_photos_are_few_and_the_network_is_not_trusted(
    banana: Path, tmp_path: Path, few_photos: str, reliability: float
) -> None:
    pipeline = make_pipeline(banana, few_photos=few_photos, fix_steps=(50,), planned_num_iterations=0)
    callbacks = training_callbacks(pipeline, tmp_path)
    assert pipeline.loop is not None
    pipeline.loop.reliability = reliability
    model = pipeline.difix3d_model
    target = pipeline.loop.walk.target_poses[0]
    with torch.no_grad():
        # Before the first target, where no photo shows it.
        model.gauss_params["means"][0] = target[:, 3] - 0.02 * target[:, 2]
        model.gauss_params["scales"][0] = math.log(0.02)
        model.gauss_params["opacities"][0] = 3.0
    before = model.gauss_params["opacities"].detach().clone()
    before_step(callbacks, 4)
    assert torch.equal(model.gauss_params["opacities"], before)
    before_step(callbacks, 5)
    removed = (model.gauss_params["opacities"] < before).flatten()
    assert bool(removed[0]) == (few_photos == "auto" and reliability < 0.5)
    assert float(removed.float().mean()) < 0.1


@pytest.mark.parametrize(("settings", "removed"), [({}, True), ({"fix_novel_views": False}, False)])
def test_the_removal_of_floaters_is_announced_only_where_it_happens(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict, removed: bool
) -> None:
    pipeline = make_pipeline(banana, few_photos="auto", fix_steps=(50,), planned_num_iterations=0, **settings)
    training_callbacks(pipeline, tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert ("Until step 50, Gaussians that lie over novel views like fog are removed." in printed) == removed


def test_holes_in_novel_views_of_few_photos_have_the_mean_colour_of_the_photos(
    banana: Path, tmp_path: Path, stub: StubFixer
) -> None:
    pipeline = make_pipeline(banana, few_photos="auto", fix_steps=(50,), planned_num_iterations=0)
    loop = start_loop(pipeline, tmp_path)
    pipeline.difix3d_model.gauss_params["opacities"].data.fill_(-20.0)
    pipeline.config.min_accumulation = 0.0
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    mean = torch.stack([photo.mean(dim=(0, 1)) for photo in photos]).mean(dim=0)
    seen: list[torch.Tensor] = []
    stub.clean = lambda renders, references, cameras: (seen.extend(renders), renders)[1]
    loop.fix(50)
    assert seen and all((render - mean).abs().max() < 0.01 for render in seen)


def test_a_chosen_background_stays_behind_novel_views(tmp_path: Path) -> None:
    pipeline = make_pipeline(scene_of_photos(tmp_path, "plain"), few_photos="auto")
    pipeline.difix3d_model.config.background_color = "white"
    assert pipeline._novel_view_background() is None


@pytest.mark.parametrize(("kind", "few_photos"), [("transparent", "yes"), ("plain", "no")])
def test_the_viewers_background_does_not_get_into_novel_views(tmp_path: Path, kind: str, few_photos: str) -> None:
    pipeline = make_pipeline(scene_of_photos(tmp_path, kind), few_photos=few_photos)
    model = pipeline.difix3d_model
    own = model.background_color.clone()
    model.set_background(torch.tensor([1.0, 0.0, 0.0]))  # as each frame of the viewer does
    assert torch.equal(pipeline._novel_view_background(), own)


def test_a_negative_floater_ratio_is_refused(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana)
    pipeline.config.model.floater_ratio = -1.0
    with pytest.raises(SystemExit, match="floater-ratio must be 0 or more, not -1"):
        training_callbacks(pipeline, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("gaussian_dropout", 1.0, "gaussian-dropout must be at least 0 and below 1, not 1"),
        ("opacity_decay", 0.0, "opacity-decay must be above 0 and at most 1, not 0"),
        ("opacity_decay", 1.1, "opacity-decay must be above 0 and at most 1, not 1.1"),
    ],
)
def test_an_impossible_dropout_or_decay_is_refused(
    banana: Path, tmp_path: Path, field: str, value: float, expected: str
) -> None:
    pipeline = make_pipeline(banana, fix_novel_views=False)
    setattr(pipeline.config.model, field, value)
    with pytest.raises(SystemExit, match=expected):
        training_callbacks(pipeline, tmp_path)


def test_training_on_several_gpus_is_refused_with_what_works_instead(banana: Path) -> None:
    config = deepcopy(all_methods["difix3d-mini"].pipeline)
    config.datamanager.data = banana
    with pytest.raises(SystemExit, match=r"2 are requested: .*one scene per GPU.*accelerate launch"):
        config.setup(device="cpu", world_size=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"difix": DifixConfig(strength=1.5)}, r"--pipeline\.difix\.strength must be from 0 to 1"),
        ({"difix": DifixConfig(max_pixels_per_batch=0)}, r"--pipeline\.difix\.max-pixels-per-batch must be 1 or more"),
        ({"references": ReferenceConfig(num_candidates=0)}, "num-candidates must be 1 or more"),
        ({"references": ReferenceConfig(min_overlap=2.0)}, "min-overlap must be from 0 to 1"),
        ({"references": ReferenceConfig(max_distance=-1.0)}, "max-distance must be 0 or more"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_loaded(banana: Path, settings: dict, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        make_pipeline(banana, **settings)


@pytest.mark.parametrize("trained", ["random", "white", "black"])
def test_transparent_photos_are_over_the_background_of_the_renders(tmp_path: Path, trained: str) -> None:
    pipeline = make_pipeline(scene_of_photos(tmp_path, "transparent"))
    pipeline.config.model.background_color = trained
    pipeline = pipeline.config.setup(device="cpu")
    color = {"random": VIEWER_BACKGROUND, "white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}[trained]
    for _ in range(2):  # from the files and from memory
        for photo in (pipeline.datamanager.training_photo(0), pipeline.enhancer.photos([0])[0]):
            # The left border of the photos is transparent.
            assert photo is not None and torch.allclose(photo[:, 0], torch.tensor(color), atol=0.05)
        assert pipeline.datamanager.cached_train[0]["image"].shape[2] == 4
