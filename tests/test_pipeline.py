"""When novel views are fixed, and what becomes of them."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from nerfstudio.engine.optimizers import Optimizers

from difix3d_ns.difix.resolve import ResolvedDifix
from difix3d_ns.fixing.difix_fixer import DifixConfig, DifixFixer
from difix3d_ns.pipeline import Difix3DPipeline


@pytest.fixture(autouse=True)
def brightening_fixer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the network: adds 0.1, so that fixed views are told from renders."""

    def fix(self, renders, references=None, on_progress=None, keep_broken=False):
        assert references is None or len(references) == len(renders)
        return [(render + 0.1).clamp(0, 1) for render in renders]

    monkeypatch.setattr(DifixFixer, "fix", fix)


def make_pipeline(scene: Path, **settings) -> Difix3DPipeline:
    config = deepcopy(all_methods["difix3d-mini"].pipeline)
    config.datamanager.data = scene
    config.datamanager.camera_res_scale_factor = 0.25
    config.datamanager.dataparser.downscale_factor = 1
    config.model.min_initial_gaussians = 0
    config.reliability.test = False
    for name, value in settings.items():
        setattr(config, name, value)
    return config.setup(device="cpu")


def start_run(
    pipeline: Difix3DPipeline,
    folder: Path,
    num_iterations: int = 100,
    start_step: int = 0,
    load_dir: Path | None = None,
) -> list[tuple[int, ...]]:
    """Does what nerfstudio's trainer does before its first step; returns the steps of the fixes."""
    saved_configs: list[int] = []
    config = SimpleNamespace(
        max_num_iterations=num_iterations,
        load_dir=load_dir,
        load_checkpoint=None,
        save_config=lambda: saved_configs.append(1),
    )
    trainer = SimpleNamespace(base_dir=folder, _start_step=start_step, config=config)
    optimizers = Optimizers(deepcopy(all_methods["difix3d-mini"].optimizers), pipeline.get_param_groups())
    callbacks = pipeline.get_training_callbacks(
        TrainingCallbackAttributes(optimizers=optimizers, grad_scaler=None, pipeline=pipeline, trainer=trainer)
    )
    return [callback.iters for callback in callbacks if callback.iters is not None]


def test_a_fix_turns_cleaned_renders_into_pseudo_views(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_steps=(50,), planned_num_iterations=0, match_colors=False)
    pipeline.config.confidence.weigh = False
    assert start_run(pipeline, tmp_path) == [(50,)]
    pipeline.fix_views(50)
    bank = pipeline.datamanager.pseudo_views
    assert len(bank) == len(pipeline.datamanager.eval_dataset) == 5
    pipeline.eval()
    for view in bank.views:
        outputs = pipeline.model.get_outputs_for_camera(view.camera)
        expected = (outputs["rgb"] + 0.1).clamp(0, 1) * 255
        assert (view.load().image - expected).abs().max() <= 0.51
        assert torch.equal(view.load().confidence == 255, outputs["accumulation"] >= 0.5)
    assert (tmp_path / "pseudo_views" / "step-000000050" / "view-0004.png").exists()


def test_views_that_do_not_fit_together_are_fixed_in_parts_to_the_same_result(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    together: list[int] = []

    def fix(self, renders, references=None, on_progress=None, keep_broken=False):
        together.append(len(renders))
        return [(render + reference[:1, :1]).clamp(0, 1) for render, reference in zip(renders, references, strict=True)]

    monkeypatch.setattr(DifixFixer, "fix", fix)
    banks, told = [], []
    for name, max_pixels in (("whole", 12_000_000), ("parts", 2 * 80 * 120)):
        monkeypatch.setattr("difix3d_ns.novel_views.progressive_update.MAX_PIXELS_AT_ONCE", max_pixels)
        torch.manual_seed(0)
        pipeline = make_pipeline(banana)
        pipeline.config.difix.max_pixels_per_batch = 1
        start_run(pipeline, tmp_path / name)
        pipeline.fix_views(50)
        banks.append(pipeline.datamanager.pseudo_views)
        told.append(" ".join(capsys.readouterr().out.split()).partition("fixed 5 novel views")[2].partition(" in ")[0])
    assert together == [5, 2, 2, 1]
    assert told[0] == told[1] != ""
    for view, again in zip(banks[0].views, banks[1].views, strict=True):
        assert (view.target, view.reference) == (again.target, again.reference)
        assert torch.equal(view.load().image, again.load().image)
        assert torch.equal(view.load().confidence, again.load().confidence)


def test_a_render_that_diverges_in_a_later_part_leaves_the_last_fix_as_it_was(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difix3d_ns.novel_views.progressive_update.MAX_PIXELS_AT_ONCE", 1)
    pipeline = make_pipeline(banana)
    pipeline.config.difix.max_pixels_per_batch = 1
    start_run(pipeline, tmp_path)
    pipeline.fix_views(20)
    before = sorted(tmp_path.rglob("*"))
    outputs = pipeline.model.get_outputs_for_camera
    calls: list[int] = []

    def diverging(camera):
        calls.append(1)
        found = outputs(camera)
        return {"rgb": found["rgb"] * (float("nan") if len(calls) == 4 else 1.0), "accumulation": found["accumulation"]}

    monkeypatch.setattr(pipeline.model, "get_outputs_for_camera", diverging)
    with pytest.raises(SystemExit, match="render of novel view 3 at step 30 holds NaN"):
        pipeline._fix_at(30)
    assert sorted(tmp_path.rglob("*")) == before
    assert pipeline.datamanager.pseudo_views.step == 20 and len(pipeline.datamanager.pseudo_views) == 5


def test_colours_are_matched_to_confident_renders(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana)
    start_run(pipeline, tmp_path)
    with torch.no_grad():
        pipeline.model.gauss_params["opacities"].fill_(5.0)
        pipeline.model.gauss_params["scales"].add_(2.0)
    pipeline.fix_views(50)
    pipeline.eval()
    for view in pipeline.datamanager.pseudo_views.views:
        outputs = pipeline.model.get_outputs_for_camera(view.camera)
        assert (view.load().image / 255 - outputs["rgb"]).mean().abs() < 0.02


def test_a_poisoned_fix_does_not_teach_and_is_told_and_kept(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fix(self, renders, references=None, on_progress=None, keep_broken=False):
        return [render * float("nan") if index == 3 else render.clone() for index, render in enumerate(renders)]

    monkeypatch.setattr(DifixFixer, "fix", fix)
    pipeline = make_pipeline(banana)
    start_run(pipeline, tmp_path)
    pipeline.fix_views(50)
    bank = pipeline.datamanager.pseudo_views
    assert [view.target for view in bank.views] == [0, 1, 2, 4]
    assert torch.equal(bank.camera_to_worlds(), pipeline._walk.poses)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Step 50: fixed 5 novel views (" in printed
    assert "1 rejected: view 3 for NaN; mean confidence" in printed
    assert (tmp_path / "pseudo_views" / "rejected" / "step-000000050-view-0003-render.png").exists()


def test_novel_views_walk_from_the_photos_to_the_targets(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, step_length=0.4)
    start_run(pipeline, tmp_path)
    targets = pipeline.datamanager.eval_dataset.cameras.camera_to_worlds
    photos = pipeline.datamanager.train_camera_to_worlds
    distances = [torch.cdist(pipeline._walk.poses[:, :, 3], photos[:, :, 3]).min(dim=1).values.max()]
    assert distances[0] == 0.0
    for fix in range(pipeline._walk.num_fixes_to_arrive):
        pipeline.fix_views(fix)
        poses = pipeline.datamanager.pseudo_views.camera_to_worlds()
        remaining = (poses[:, :, 3] - targets[:, :, 3]).norm(dim=-1).max()
        assert fix == 0 or remaining < distances[-1]
        distances.append(remaining)
    assert torch.equal(poses, targets)


def test_a_resume_goes_on_where_the_walk_stood(banana: Path, tmp_path: Path) -> None:
    settings = {"step_length": 0.3, "fix_steps": (20, 40, 60), "planned_num_iterations": 0}
    first = make_pipeline(banana, **settings)
    start_run(first, tmp_path / "first")
    first.fix_views(20)
    resumed = make_pipeline(banana, **settings)
    checkpoints = tmp_path / "first" / "nerfstudio_models"
    assert start_run(resumed, tmp_path / "resumed", 70, start_step=30, load_dir=checkpoints) == [(40, 60)]
    assert torch.equal(resumed._walk.poses, first._walk.poses)
    assert len(resumed.datamanager.pseudo_views) == 5


def test_a_run_from_a_foreign_checkpoint_gets_its_own_schedule(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_steps=(20, 40), planned_num_iterations=0)
    load_dir = tmp_path / "splatfacto" / "nerfstudio_models"
    load_dir.mkdir(parents=True)
    assert start_run(pipeline, tmp_path / "run", 50, start_step=30_000, load_dir=load_dir) == [(30_020, 30_040)]


def test_the_network_that_auto_stands_for_is_in_the_runs_config(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ResolvedDifix(name="embedded", source="somewhere", revision=None, reason="embedded, as there is no GPU")
    monkeypatch.setattr(DifixFixer, "resolve", lambda self: choice)
    pipeline = make_pipeline(banana)
    pipeline.config.difix.model = "auto"
    start_run(pipeline, tmp_path)
    assert pipeline.config.difix.model == "embedded"
    assert "Difix: embedded, as there is no GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "given", "expected"), [("a/b", None, "3" * 40), ("a/b", "v1", "v1"), ("c/d", None, None)]
)
def test_a_resumed_run_asks_for_the_commit_of_the_earlier_one_unless_told_otherwise(
    banana: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    given: str | None,
    expected: str | None,
) -> None:
    def fetch(self: DifixFixer) -> ResolvedDifix:
        choice = self.resolve()
        assert choice.revision == expected
        return replace(choice, revision="4" * 40)

    monkeypatch.setattr(DifixFixer, "fetch", fetch)
    earlier = deepcopy(all_methods["difix3d-mini"])
    earlier.pipeline.difix = DifixConfig(model="a/b", revision="3" * 40)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yml").write_text(yaml.dump(earlier))
    pipeline = make_pipeline(banana, difix=DifixConfig(model=model, revision=given))
    start_run(pipeline, tmp_path / "second", start_step=30, load_dir=tmp_path / "first" / "nerfstudio_models")
    assert pipeline.config.difix == pipeline.fixer.config == DifixConfig(model=model, revision="4" * 40)


def test_without_fixes_there_is_no_callback_and_no_target_needed(banana: Path, tmp_path: Path) -> None:
    assert start_run(make_pipeline(banana, fix_novel_views=False), tmp_path) == []


def test_a_diverged_render_stops_the_run(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana)
    start_run(pipeline, tmp_path)
    with torch.no_grad():
        pipeline.model.gauss_params["features_dc"].fill_(float("nan"))
    with pytest.raises(SystemExit, match="training has diverged"):
        pipeline._fix_at(10)
    assert not (tmp_path / "pseudo_views").exists()


def test_a_scene_without_evaluation_photos_is_refused(edit_transforms, tmp_path: Path) -> None:
    pipeline = make_pipeline(edit_transforms(lambda scene: scene.update(val_filenames=[])))
    with pytest.raises(SystemExit, match="no evaluation photos"):
        start_run(pipeline, tmp_path)


def test_cuda_on_a_machine_without_it_ends_in_one_sentence(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = deepcopy(all_methods["difix3d-mini"].pipeline)
    config.datamanager.data = banana
    with pytest.raises(SystemExit, match=r"--machine\.device-type cpu"):
        config.setup(device="cuda:0")


@pytest.mark.parametrize("kind", ["interpolate", "orbit", "spiral", "random"])
def test_novel_views_walk_to_made_targets_without_evaluation_photos(edit_transforms, tmp_path: Path, kind: str) -> None:
    scene = edit_transforms(lambda transforms: transforms.update(val_filenames=[]))
    pipeline = make_pipeline(scene, step_length=9.0)
    pipeline.config.targets.kind = kind
    pipeline.config.targets.num_views = 2
    start_run(pipeline, tmp_path)
    pipeline.fix_views(10)
    bank = pipeline.datamanager.pseudo_views
    assert torch.equal(bank.camera_to_worlds(), pipeline._walk.target_poses) and len(bank) == 2
    photo = pipeline.datamanager.train_dataset.cameras[0]
    assert {tuple(view.load().image.shape[:2]) for view in bank.views} == {(int(photo.height), int(photo.width))}


def test_a_step_in_the_unit_of_the_scene_does_not_depend_on_its_scale(banana: Path, tmp_path: Path) -> None:
    shares = []
    for scale in (1.0, 0.1):
        config_scale = {"step_length": 0.4, "step_unit": "scene"}
        pipeline = make_pipeline(banana, **config_scale)
        for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
            dataset.cameras.camera_to_worlds[:, :, 3] *= scale
        start_run(pipeline, tmp_path)
        pipeline._walk.advance()
        left = (pipeline._walk.target_poses - pipeline._walk.poses)[:, :, 3].norm(dim=-1)
        shares.append(left / scale)
    assert torch.allclose(shares[0], shares[1], atol=1e-4)


def test_a_step_in_scene_units_has_the_published_length(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, step_length=0.25, step_unit="units")
    start_run(pipeline, tmp_path)
    start = pipeline._walk.poses
    pipeline._walk.advance()
    assert (pipeline._walk.poses - start)[:, :, 3].norm(dim=-1).max() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("choice", ["pose", "overlap"])
def test_a_view_too_far_from_all_photos_is_fixed_without_a_reference(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    pipeline = make_pipeline(banana)
    pipeline.config.references.choice = choice
    given: list = []

    def fix(self, renders, references, on_progress=None, keep_broken=False):
        given.extend(references)
        return renders

    monkeypatch.setattr(DifixFixer, "fix", fix)
    start_run(pipeline, tmp_path)
    pipeline.fix_views(10)
    assert all(reference is not None for reference in given[:5])
    assert {view.reference for view in pipeline.datamanager.pseudo_views.views} <= {0, 1, 2}
    pipeline.config.references.max_distance = 1e-3
    pipeline.fix_views(20)
    assert given[5:] == [None] * 5
    resumed = make_pipeline(banana)
    assert resumed.datamanager.pseudo_views.restore(tmp_path / "pseudo_views", 20)
    assert [view.reference for view in resumed.datamanager.pseudo_views.views] == [None] * 5


def test_a_checkpoint_with_camera_corrections_is_told_what_to_set(banana: Path) -> None:
    pipeline = make_pipeline(banana)
    state = {**pipeline.state_dict(), "_model.camera_optimizer.pose_adjustment": torch.zeros(3, 6)}
    with pytest.raises(SystemExit, match=r"camera-optimizer\.mode SO3xR3"):
        pipeline.load_pipeline(state, 10)


def test_enhancing_takes_the_nearest_photo_as_reference(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(banana)
    given: list[torch.Tensor] = []
    monkeypatch.setattr(DifixFixer, "fix", lambda self, renders, references: given.extend(references) or renders)
    cameras = pipeline.datamanager.train_dataset.cameras
    pipeline.eval()
    assert pipeline.model.get_outputs_for_camera(cameras[2:3])["rgb_enhanced"].shape[-1] == 3
    assert torch.equal(given[0], pipeline.datamanager.training_photo(2))


def test_evaluation_gives_raw_and_enhanced_figures_side_by_side(
    banana: Path, alexnet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DifixFixer, "network", None)
    pipeline = make_pipeline(banana)
    results = pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    names = {"psnr", "ssim", "lpips", "fps", "num_rays_per_sec"}
    names |= {f"{name}_enhanced" for name in names}
    assert results.keys() == names | {f"{name}_std" for name in names}
    assert results["psnr"] != results["psnr_enhanced"]
    assert results["lpips"] != results["lpips_enhanced"]
    assert {path.name for path in tmp_path.iterdir()} >= {f"eval_img_{index:04d}.png" for index in range(5)}
    in_training = pipeline.get_average_eval_image_metrics(step=10)
    assert in_training.keys() == {"psnr", "ssim", "lpips", "fps", "num_rays_per_sec"}


def make_tested_pipeline(scene: Path, early_fix_steps: tuple[int, ...] = (20, 50)) -> Difix3DPipeline:
    pipeline = make_pipeline(scene, fix_steps=(50,), early_fix_steps=early_fix_steps, planned_num_iterations=0)
    pipeline.config.reliability.test = True
    return pipeline


def test_an_unreliable_network_fixes_at_the_usual_steps_alone(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DifixFixer, "fix", lambda self, renders, *_, **__: [1 - render for render in renders])
    pipeline = make_tested_pipeline(banana)
    assert start_run(pipeline, tmp_path) == [(20, 50)]
    assert "before steps 50 (1 fix;" in " ".join(capsys.readouterr().out.split())
    start = pipeline._walk.poses
    pipeline.fix_views(20)
    assert len(pipeline.datamanager.pseudo_views) == 0 and torch.equal(pipeline._walk.poses, start)
    assert "Step 20: no early fix, as the network removes 0%" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(DifixFixer, "fix", lambda self, renders, *_, **__: list(renders))
    pipeline.fix_views(50)
    assert [view.load().reliability for view in pipeline.datamanager.pseudo_views.views] == [0.0] * 5
    pipeline.config.reliability.test = False
    assert start_run(pipeline, tmp_path) == [(50,)]


def test_a_network_that_removes_a_little_of_the_error_fixes_early_from_then_on(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_tested_pipeline(banana, (10, 20, 30))
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    share = 0.0

    def fix(self, renders, references=None, on_progress=None, keep_broken=False):
        if len(renders) != len(photos):
            return list(renders)
        return [torch.lerp(render, photo, share) for render, photo in zip(renders, photos, strict=True)]

    monkeypatch.setattr(DifixFixer, "fix", fix)
    start_run(pipeline, tmp_path)
    bank = pipeline.datamanager.pseudo_views
    pipeline.fix_views(10)
    assert len(bank) == 0
    share = 0.01
    pipeline.fix_views(20)
    assert [round(view.reliability, 3) for view in bank.views] == [0.020] * 5
    share = 0.0
    pipeline.fix_views(30)
    assert bank.step == 30 and [view.reliability for view in bank.views] == [0.0] * 5


def test_a_reliable_network_fixes_early_is_tested_with_other_photos_and_remembered(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_tested_pipeline(banana)
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    given: list = []

    def fix(self, renders, references=None, on_progress=None, keep_broken=False):
        given.append(references)
        return photos if len(given) == 1 else [(render + 0.3).clamp(0, 1) for render in renders]

    monkeypatch.setattr(DifixFixer, "fix", fix)
    start_run(pipeline, tmp_path)
    pipeline.train()
    pipeline.fix_views(20)
    assert pipeline.training and pipeline.model.training
    assert len(given[0]) == 3 and len(given[1]) == 5
    assert not any(torch.equal(reference, photo) for reference, photo in zip(given[0], photos, strict=True))
    printed = " ".join(capsys.readouterr().out.split())
    assert "reliability 100%" in printed
    parts = ", ".join(rf"{work} \d+\.\d s" for work in ("testing", "rendering", "Difix", "storing"))
    assert re.search(rf"in \d+\.\d s: {parts}\.", printed)
    assert all(pipeline.datamanager.next_train(step)[1].get("reliability", 1.0) == 1.0 for step in range(30))
    resumed = make_pipeline(banana)
    assert resumed.datamanager.pseudo_views.restore(tmp_path / "pseudo_views", 20)
    assert [view.load().reliability for view in resumed.datamanager.pseudo_views.views] == [1.0] * 5
