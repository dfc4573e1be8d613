"""The loop of novel views: when they are fixed, and the pseudo views that result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from scenes_of_photos import scene_of_photos
from training_runs import (
    StubFixer,
    before_step,
    fix_steps,
    make_pipeline,
    start_loop,
    training_callbacks,
)

from difix3d_ns.alignment.scene_photos import ScenePhotos
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.pipeline import Difix3DPipeline

STAGES = ("testing", "choosing references", "rendering", "cleaning", "storing")
"""The parts of a fix whose time it prints, in the order in which they begin."""


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> StubFixer:
    """The fixer of all pipelines of a test."""
    stub = StubFixer()
    monkeypatch.setattr("difix3d_ns.fixing.lazy_fixer.make_fixer", lambda config, device: stub)
    return stub


def make_tested_pipeline(
    scene: Path, early_fix_steps: tuple[int, ...] = (20, 50), few_photos: str = "no"
) -> Difix3DPipeline:
    """A pipeline whose fixer is tested at photos before each fix."""
    steps = {"fix_steps": (50,), "early_fix_steps": early_fix_steps}
    pipeline = make_pipeline(scene, **steps, planned_num_iterations=0, few_photos=few_photos)
    pipeline.config.reliability.test = True
    return pipeline


def test_a_fix_turns_cleaned_renders_into_pseudo_views(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_steps=(50,), planned_num_iterations=0, match_colors=False)
    pipeline.config.confidence.weigh = False
    callbacks = training_callbacks(pipeline, tmp_path)
    assert fix_steps(callbacks) == [(50,)]
    before_step(callbacks, 49)
    bank = pipeline.datamanager.pseudo_views
    assert len(bank) == 0
    before_step(callbacks, 50)
    assert len(bank) == len(pipeline.datamanager.eval_dataset) == 5
    pipeline.eval()
    for view in bank.views:
        outputs = pipeline.model.get_outputs_for_camera(view.camera)
        expected = (outputs["rgb"] + 0.1).clamp(0, 1) * 255
        assert (view.load().image - expected).abs().max() <= 0.51
        assert torch.equal(view.load().confidence == 255, outputs["accumulation"] >= 0.5)
    assert (tmp_path / "pseudo_views" / "step-000000050" / "view-0004.png").exists()


def test_the_fixer_gets_each_render_with_its_reference_and_camera(
    banana: Path, tmp_path: Path, stub: StubFixer
) -> None:
    pipeline = make_pipeline(banana)
    seen: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []

    def clean(renders, references, cameras):
        poses = [camera.camera_to_worlds[0] for camera in cameras]
        seen.extend(zip(renders, references, poses, strict=True))
        return renders

    stub.clean = clean
    start_loop(pipeline, tmp_path).fix(10)
    pipeline.eval()
    bank = pipeline.datamanager.pseudo_views
    assert len(seen) == 5
    for (render, reference, pose), view in zip(seen, bank.views, strict=True):
        assert torch.equal(pose, view.camera.camera_to_worlds[0])
        assert torch.equal(render, pipeline.model.get_outputs_for_camera(view.camera)["rgb"])
        assert torch.equal(reference, pipeline.datamanager.training_photo(view.reference))


def test_views_that_do_not_fit_into_memory_together_are_fixed_in_parts_with_the_same_result(
    banana: Path,
    tmp_path: Path,
    stub: StubFixer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    together: list[int] = []
    clean_part = LazyFixer.clean

    def counting(self, renders, *rest, **options):
        together.append(len(renders))
        return clean_part(self, renders, *rest, **options)

    monkeypatch.setattr(LazyFixer, "clean", counting)
    stub.clean = lambda renders, references, cameras: [
        (render + reference[:1, :1]).clamp(0, 1) for render, reference in zip(renders, references, strict=True)
    ]
    banks, printed = [], []
    for name, max_pixels in (("whole", 12_000_000), ("parts", 2 * 80 * 120)):
        monkeypatch.setattr("difix3d_ns.novel_views.progressive_update.MAX_PIXELS_AT_ONCE", max_pixels)
        torch.manual_seed(0)
        pipeline = make_pipeline(banana)
        pipeline.config.difix.max_pixels_per_batch = 1
        start_loop(pipeline, tmp_path / name).fix(50)
        banks.append(pipeline.datamanager.pseudo_views)
        output = " ".join(capsys.readouterr().out.split())
        printed.append(output.partition("fixed 5 novel views")[2].partition(" in ")[0])
    assert together == [5, 2, 2, 1]
    assert printed[0] == printed[1] != ""
    for view, again in zip(banks[0].views, banks[1].views, strict=True):
        assert (view.target, view.reference) == (again.target, again.reference)
        assert torch.equal(view.load().image, again.load().image)
        assert torch.equal(view.load().confidence, again.load().confidence)


def test_a_diverged_render_in_a_later_part_keeps_the_last_fix(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difix3d_ns.novel_views.progressive_update.MAX_PIXELS_AT_ONCE", 1)
    pipeline = make_pipeline(banana, fix_steps=(20, 30), planned_num_iterations=0)
    pipeline.config.difix.max_pixels_per_batch = 1
    callbacks = training_callbacks(pipeline, tmp_path)
    before_step(callbacks, 20)
    before = sorted(tmp_path.rglob("*"))
    outputs = pipeline.model.get_outputs_for_camera
    calls: list[int] = []

    def diverging(camera):
        calls.append(1)
        found = outputs(camera)
        return {"rgb": found["rgb"] * (float("nan") if len(calls) == 4 else 1.0), "accumulation": found["accumulation"]}

    monkeypatch.setattr(pipeline.model, "get_outputs_for_camera", diverging)
    with pytest.raises(SystemExit, match="render of novel view 3 at step 30 contains NaN"):
        before_step(callbacks, 30)
    assert sorted(tmp_path.rglob("*")) == before
    assert pipeline.datamanager.pseudo_views.step == 20 and len(pipeline.datamanager.pseudo_views) == 5


def test_a_diverged_render_stops_the_run(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_steps=(10,), planned_num_iterations=0)
    callbacks = training_callbacks(pipeline, tmp_path)
    with torch.no_grad():
        pipeline.model.gauss_params["features_dc"].fill_(float("nan"))
    with pytest.raises(SystemExit, match="training has diverged"):
        before_step(callbacks, 10)
    assert not (tmp_path / "pseudo_views").exists()


def test_colours_are_matched_to_confident_renders(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana)
    loop = start_loop(pipeline, tmp_path)
    with torch.no_grad():
        pipeline.model.gauss_params["opacities"].fill_(5.0)
        pipeline.model.gauss_params["scales"].add_(2.0)
    loop.fix(50)
    pipeline.eval()
    for view in pipeline.datamanager.pseudo_views.views:
        outputs = pipeline.model.get_outputs_for_camera(view.camera)
        assert (view.load().image / 255 - outputs["rgb"]).mean().abs() < 0.02


def test_a_fix_with_nan_is_rejected_reported_and_saved(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(banana)
    loop = start_loop(pipeline, tmp_path)

    def clean(renders, references, cameras):
        has_nan = [torch.equal(camera.camera_to_worlds[0], loop.walk.poses[3]) for camera in cameras]
        return [render * float("nan") if bad else render for render, bad in zip(renders, has_nan, strict=True)]

    stub.clean = clean
    loop.fix(50)
    bank = pipeline.datamanager.pseudo_views
    assert [view.target for view in bank.views] == [0, 1, 2, 4]
    assert torch.equal(bank.camera_to_worlds(), loop.walk.poses)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Step 50: fixed 5 novel views (" in printed
    assert "1 rejected: view 3 for NaN; mean confidence" in printed
    assert (tmp_path / "pseudo_views" / "rejected" / "step-000000050-view-0003-render.png").exists()


def saved_files(folder: Path) -> dict[Path, bytes]:
    """All files below a folder with their contents."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("first", [False, True])
def test_a_fix_that_cleans_no_view_leaves_the_pseudo_views_and_the_walk_as_they_were(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str], first: bool
) -> None:
    pipeline = make_pipeline(banana, step_length=0.3, fix_steps=(20, 30), planned_num_iterations=0)
    callbacks, bank = training_callbacks(pipeline, tmp_path), pipeline.datamanager.pseudo_views
    assert pipeline.loop is not None
    if not first:
        before_step(callbacks, 20)
    files, poses, num_views = saved_files(tmp_path), pipeline.loop.walk.poses, len(bank)
    stub.clean = lambda renders, references, cameras: [render * float("nan") for render in renders]
    before_step(callbacks, 30)
    assert bank.step == (-1 if first else 20) and len(bank) == num_views == (0 if first else 5)
    assert saved_files(tmp_path) == files and torch.equal(pipeline.loop.walk.poses, poses)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Step 30: the network could clean none of the 5 novel views. Training goes on with" in printed
    assert "Step 30: fixed" not in printed and ("with the pseudo views of step 20" in printed) is not first


def test_novel_views_walk_from_the_photos_to_the_targets(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, step_length=0.4)
    loop = start_loop(pipeline, tmp_path)
    targets = pipeline.datamanager.eval_dataset.cameras.camera_to_worlds
    photos = pipeline.datamanager.train_camera_to_worlds
    assert torch.cdist(loop.walk.poses[:, :, 3], photos[:, :, 3]).min(dim=1).values.max() == 0
    remaining = [torch.inf]
    for fix in range(loop.walk.num_fixes_to_arrive):
        loop.fix(fix)
        poses = pipeline.datamanager.pseudo_views.camera_to_worlds()
        remaining.append(float((poses[:, :, 3] - targets[:, :, 3]).norm(dim=-1).max()))
        assert remaining[-1] < remaining[-2]
    assert torch.equal(poses, targets)


def test_a_resumed_run_continues_the_walk(banana: Path, tmp_path: Path) -> None:
    settings = {"step_length": 0.3, "fix_steps": (20, 40, 60), "planned_num_iterations": 0}
    start_loop(first := make_pipeline(banana, **settings), tmp_path / "first").fix(20)
    resumed = make_pipeline(banana, **settings)
    checkpoints = tmp_path / "first" / "nerfstudio_models"
    callbacks = training_callbacks(resumed, tmp_path / "resumed", 70, start_step=30, load_dir=checkpoints)
    assert fix_steps(callbacks) == [(40, 60)]
    banks = [pipeline.datamanager.pseudo_views for pipeline in (first, resumed)]
    assert len(banks[1]) == 5 and torch.equal(banks[0].camera_to_worlds(), banks[1].camera_to_worlds())
    assert first.loop is not None
    first.loop.fix(40)
    before_step(callbacks, 40)
    assert torch.equal(banks[0].camera_to_worlds(), banks[1].camera_to_worlds())


def test_a_run_that_is_killed_many_fixes_after_its_checkpoint_keeps_its_views(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"fix_steps": (20, 40, 60, 80, 90), "planned_num_iterations": 0}
    checkpoints = tmp_path / "nerfstudio_models"
    loop = start_loop(first := make_pipeline(banana, **settings), tmp_path)
    loop.fix(20)
    poses = first.datamanager.pseudo_views.camera_to_worlds()
    checkpoints.mkdir()
    (checkpoints / "step-000000030.ckpt").touch()
    for step in (40, 60, 80, 90):
        loop.fix(step)
    resumed = make_pipeline(banana, **settings)
    training_callbacks(resumed, tmp_path, 70, start_step=31, load_dir=checkpoints)
    assert torch.equal(resumed.datamanager.pseudo_views.camera_to_worlds(), poses)
    assert "Resumed with 5 pseudo views fixed at step 20." in " ".join(capsys.readouterr().out.split())


def test_a_resumed_run_whose_views_are_lost_says_so(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"fix_steps": (20, 40), "planned_num_iterations": 0}
    start_loop(make_pipeline(banana, **settings), tmp_path).fix(40)
    training_callbacks(
        make_pipeline(banana, **settings), tmp_path, 70, start_step=31, load_dir=tmp_path / "nerfstudio_models"
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "holds no novel views that were fixed before step 31. They start again at the photos" in printed


def test_a_resumed_run_knows_the_reliability_of_its_last_fix(banana: Path, tmp_path: Path, stub: StubFixer) -> None:
    pipeline = make_tested_pipeline(banana)
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    stub.clean = lambda renders, references, cameras: photos if len(renders) == 3 else renders
    start_loop(pipeline, tmp_path).fix(50)
    run = {"start_step": 60, "load_dir": tmp_path / "nerfstudio_models"}
    assert start_loop(make_tested_pipeline(banana), tmp_path, **run).reliability == 1.0


@pytest.mark.parametrize(
    "steps", [{"fix_every": -5}, {"fix_steps": (-20, 40)}, {"early_fix_steps": (-1,)}, {"planned_num_iterations": -1}]
)
def test_negative_steps_end_in_one_sentence(banana: Path, tmp_path: Path, steps: dict) -> None:
    with pytest.raises(SystemExit, match=r"--pipeline\.fix-every and .* must be 0 or more"):
        training_callbacks(make_pipeline(banana, **steps), tmp_path)


def test_photos_prepared_for_references_do_not_stay_in_memory_after_a_fix(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    prepared = ScenePhotos._photo

    def counted(self: ScenePhotos, index: int) -> object:
        found = prepared(self, index)
        kept.append(len(self._views))
        photos.append(self)
        return found

    photos: list[ScenePhotos] = []
    monkeypatch.setattr(ScenePhotos, "_photo", counted)
    pipeline = make_pipeline(banana)
    pipeline.config.references.align = "depth"
    start_loop(pipeline, tmp_path).fix(10)
    assert max(kept) > 0 and len(photos[-1]._views) == 0


def test_a_run_from_a_foreign_checkpoint_gets_its_own_schedule(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_steps=(20, 40), planned_num_iterations=0)
    load_dir = tmp_path / "splatfacto" / "nerfstudio_models"
    load_dir.mkdir(parents=True)
    callbacks = training_callbacks(pipeline, tmp_path / "run", 50, start_step=30_000, load_dir=load_dir)
    assert fix_steps(callbacks) == [(30_020, 30_040)]


def test_a_scene_without_evaluation_photos_is_refused(edit_transforms, tmp_path: Path) -> None:
    pipeline = make_pipeline(edit_transforms(lambda scene: scene.update(val_filenames=[])))
    with pytest.raises(SystemExit, match="no evaluation photos"):
        training_callbacks(pipeline, tmp_path)


@pytest.mark.parametrize("kind", ["interpolate", "orbit", "spiral", "random"])
def test_novel_views_walk_to_generated_targets_without_evaluation_photos(
    edit_transforms, tmp_path: Path, kind: str
) -> None:
    scene = edit_transforms(lambda transforms: transforms.update(val_filenames=[]))
    pipeline = make_pipeline(scene, step_length=9.0)
    pipeline.config.targets.kind = kind
    pipeline.config.targets.num_views = 2
    loop = start_loop(pipeline, tmp_path)
    loop.fix(10)
    bank = pipeline.datamanager.pseudo_views
    assert torch.equal(bank.camera_to_worlds(), loop.walk.target_poses) and len(bank) == 2
    photo = pipeline.datamanager.train_dataset.cameras[0]
    assert {tuple(view.load().image.shape[:2]) for view in bank.views} == {(int(photo.height), int(photo.width))}


def test_a_step_in_the_unit_of_the_scene_does_not_depend_on_its_scale(banana: Path, tmp_path: Path) -> None:
    fixed = []
    for scale in (1.0, 0.1):
        pipeline = make_pipeline(banana, step_length=0.4, step_unit="scene")
        for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
            dataset.cameras.camera_to_worlds[:, :, 3] *= scale
        start_loop(pipeline, tmp_path / str(scale)).fix(10)
        fixed.append(pipeline.datamanager.pseudo_views.camera_to_worlds()[:, :, 3] / scale)
    assert torch.allclose(fixed[0], fixed[1], atol=1e-4)


def test_a_step_in_scene_units_has_the_published_length(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, step_length=0.25, step_unit="units")
    loop = start_loop(pipeline, tmp_path)
    start = loop.walk.poses
    loop.fix(10)
    moved = (pipeline.datamanager.pseudo_views.camera_to_worlds() - start)[:, :, 3].norm(dim=-1)
    assert moved.max() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("choice", ["pose", "overlap"])
def test_a_view_too_far_from_all_photos_is_fixed_without_a_reference(
    banana: Path, tmp_path: Path, stub: StubFixer, choice: str
) -> None:
    pipeline = make_pipeline(banana)
    pipeline.config.references.choice = choice
    given: list = []
    stub.clean = lambda renders, references, cameras: given.extend(references) or renders
    loop = start_loop(pipeline, tmp_path)
    loop.fix(10)
    assert len(given) == 5 and all(reference is not None for reference in given)
    assert {view.reference for view in pipeline.datamanager.pseudo_views.views} <= {0, 1, 2}
    pipeline.config.references.max_distance = 1e-3
    loop.fix(20)
    assert given[5:] == [None] * 5
    resumed = make_pipeline(banana)
    assert resumed.datamanager.pseudo_views.restore(tmp_path / "pseudo_views", 20)
    assert [view.reference for view in resumed.datamanager.pseudo_views.views] == [None] * 5


def test_an_unreliable_fixer_makes_no_early_fixes(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.clean = lambda renders, references, cameras: [1 - render for render in renders]
    pipeline = make_tested_pipeline(banana)
    callbacks = training_callbacks(pipeline, tmp_path)
    assert fix_steps(callbacks) == [(20, 50)]
    assert "before step 50 (1 fix;" in " ".join(capsys.readouterr().out.split())
    before_step(callbacks, 20)
    assert len(pipeline.datamanager.pseudo_views) == 0
    assert "Step 20: no early fix, as the network removes 0%" in " ".join(capsys.readouterr().out.split())
    stub.clean = lambda renders, references, cameras: renders
    before_step(callbacks, 50)
    views = pipeline.datamanager.pseudo_views.views
    assert [view.load().reliability for view in views] == [0.0] * 5
    once = make_tested_pipeline(banana)
    training_callbacks(once, tmp_path / "once")
    assert once.loop is not None
    once.loop.fix(50)
    # The refused early fix moved no view.
    assert torch.equal(
        pipeline.datamanager.pseudo_views.camera_to_worlds(), once.datamanager.pseudo_views.camera_to_worlds()
    )
    untested = make_tested_pipeline(banana)
    untested.config.reliability.test = False
    assert fix_steps(training_callbacks(untested, tmp_path / "untested")) == [(50,)]


def test_with_few_photos_an_unreliable_fixer_leaves_early_renders_as_they_are(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.clean = lambda renders, references, cameras: [1 - render for render in renders]
    pipeline = make_tested_pipeline(banana, few_photos="auto")
    loop = start_loop(pipeline, tmp_path)
    assert "Before step 20 they are also rendered and kept" in loop.describe()
    loop.fix(20)
    bank = pipeline.datamanager.pseudo_views
    assert len(bank) == 5 and not any(view.cleaned for view in bank.views)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Step 20: kept 5 novel views as rendered (as the network removes 0% of the error at photos, and" in printed
    pipeline.eval()
    for view in bank.views:
        outputs = pipeline.model.get_outputs_for_camera(view.camera)
        difference = (view.load().image - outputs["rgb"] * 255).abs()
        # Holes have another background.
        assert (difference - 255 * (1 - outputs["accumulation"])).max() <= 0.51 and outputs["accumulation"].max() > 0.5
    loop.fix(50)
    assert all(view.cleaned for view in bank.views)


@pytest.mark.parametrize(("few_photos", "steps"), [("yes", (20, 30, 40, 50)), ("no", (20, 50))])
def test_scenes_with_few_photos_have_early_fix_steps_of_their_own(
    banana: Path, tmp_path: Path, few_photos: str, steps: tuple[int, ...]
) -> None:
    pipeline = make_tested_pipeline(banana, few_photos=few_photos)
    pipeline.config.few_photos_fix_steps = (30, 40)
    loop = start_loop(pipeline, tmp_path)
    assert loop.schedule.steps == steps
    assert loop.schedule.certain == (50,)


def test_a_run_from_a_trained_splat_of_few_photos_does_not_keep_its_renders(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, few_photos="yes", fix_steps=(30,), early_fix_steps=(), planned_num_iterations=0)
    pipeline.config.few_photos_fix_steps = (10, 20)
    load_dir = tmp_path / "splatfacto" / "nerfstudio_models"
    load_dir.mkdir(parents=True)
    run = {"num_iterations": 50, "start_step": 30_000, "load_dir": load_dir}
    assert start_loop(pipeline, tmp_path / "run", **run).schedule.steps == (30_030,)


@pytest.mark.parametrize(
    ("step", "few_photos", "change", "blurred"),
    [(50, "auto", 0.0, True), (20, "auto", 0.0, False), (50, "no", 0.0, False), (50, "auto", 0.1, False)],
)
def test_what_neither_few_photos_nor_the_network_show_is_blurred_except_at_early_fixes(
    banana: Path, tmp_path: Path, stub: StubFixer, step: int, few_photos: str, change: float, blurred: bool
) -> None:
    stub.clean = lambda renders, references, cameras: [(render + change).clamp(0, 1) for render in renders]
    images = []
    for blur_unseen in (True, False):
        torch.manual_seed(0)
        pipeline = make_tested_pipeline(banana, few_photos=few_photos)
        pipeline.config.blur_unseen = blur_unseen
        with torch.no_grad():
            pipeline.model.gauss_params["opacities"].fill_(5.0)
            pipeline.model.gauss_params["scales"].add_(1.0)
        loop = start_loop(pipeline, tmp_path / str(blur_unseen))
        assert ("blurred" in loop.describe()) == (blur_unseen and few_photos == "auto")
        loop.fix(step)
        images.append([view.load().image.float() for view in pipeline.datamanager.pseudo_views.views])
    changed = [(one - other).abs().amax(dim=-1) > 2 for one, other in zip(*images, strict=True)]
    assert len(changed) == (5 if step == 50 or few_photos == "auto" else 0)
    shares = [float(mask.float().mean()) for mask in changed]
    assert (max(shares) > 0.05) == blurred and max(shares) < 0.9


def test_an_untested_fixer_leaves_early_renders_of_few_photos_as_they_are(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_tested_pipeline(banana, few_photos="yes")
    pipeline.config.reliability.test = False
    loop = start_loop(pipeline, tmp_path)
    loop.fix(20)
    assert not any(view.cleaned for view in pipeline.datamanager.pseudo_views.views)
    assert "as the network is not tested" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("reliable", [False, True])
def test_a_resumed_run_of_few_photos_knows_whether_the_fixer_has_proved_reliable(
    banana: Path, tmp_path: Path, stub: StubFixer, reliable: bool
) -> None:
    pipeline = make_tested_pipeline(banana, (10, 20), few_photos="yes")
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    stub.clean = lambda renders, references, cameras: photos if reliable and len(renders) == 3 else renders
    start_loop(pipeline, tmp_path).fix(10)
    stub.clean = lambda renders, references, cameras: renders  # unreliable from now on
    resumed = make_tested_pipeline(banana, (10, 20), few_photos="yes")
    assert resumed.datamanager.pseudo_views.restore(tmp_path / "pseudo_views", 10)
    start_loop(resumed, tmp_path).fix(20)
    bank = resumed.datamanager.pseudo_views
    assert bank.step == 20 and {view.cleaned for view in bank.views} == {reliable}


def test_early_fixes_continue_once_the_fixer_has_removed_a_little_of_the_error(
    banana: Path, tmp_path: Path, stub: StubFixer
) -> None:
    pipeline = make_tested_pipeline(banana, (10, 20, 30))
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    share = 0.0

    def clean(renders, references, cameras):
        if len(renders) != len(photos):
            return renders
        return [torch.lerp(render, photo, share) for render, photo in zip(renders, photos, strict=True)]

    stub.clean = clean
    loop = start_loop(pipeline, tmp_path)
    bank = pipeline.datamanager.pseudo_views
    loop.fix(10)
    assert len(bank) == 0
    share = 0.01
    loop.fix(20)
    assert [round(view.reliability, 3) for view in bank.views] == [0.020] * 5
    share = 0.0
    loop.fix(30)
    assert bank.step == 30 and [view.reliability for view in bank.views] == [0.0] * 5


def test_a_reliable_fixer_fixes_early_and_its_reliability_is_saved(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_tested_pipeline(banana)
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]
    given: list = []

    def clean(renders, references, cameras):
        given.append(references)
        return photos if len(given) == 1 else [(render + 0.3).clamp(0, 1) for render in renders]

    stub.clean = clean
    loop = start_loop(pipeline, tmp_path)
    pipeline.train()
    loop.fix(20)
    assert pipeline.training and pipeline.model.training
    assert len(given[0]) == 3 and sum(map(len, given[1:])) == 5
    assert not any(torch.equal(reference, photo) for reference, photo in zip(given[0], photos, strict=True))
    printed = " ".join(capsys.readouterr().out.split())
    assert "reliability 100%" in printed
    parts = ", ".join(rf"{work} \d+\.\d s" for work in STAGES)
    assert re.search(rf"in \d+\.\d s: {parts}\.", printed)
    assert all(pipeline.datamanager.next_train(step)[1].get("reliability", 1.0) == 1.0 for step in range(30))
    resumed = make_pipeline(banana)
    assert resumed.datamanager.pseudo_views.restore(tmp_path / "pseudo_views", 20)
    assert [view.load().reliability for view in resumed.datamanager.pseudo_views.views] == [1.0] * 5


def test_a_distorted_scene_is_fixed_with_cameras_that_nobody_rewrites(tmp_path: Path) -> None:
    # nerfstudio rewrites cameras in place when it reads the evaluation photos, after the targets were taken from them.
    pipeline = make_pipeline(scene_of_photos(tmp_path / "scene", "distorted", size=(480, 320)))
    start_loop(pipeline, tmp_path / "run").fix(10)
    bank = pipeline.datamanager.pseudo_views
    before = [(float(view.camera.fx), tuple(view.load().image.shape[:2])) for view in bank.views]
    assert len(pipeline.datamanager.cached_eval) == 5
    assert before == [(float(view.camera.fx), (int(view.camera.height), int(view.camera.width))) for view in bank.views]
    for step in range(8):
        camera, batch = pipeline.datamanager.next_train(step)
        assert batch["image"].shape[:2] == (int(camera.height), int(camera.width))


def test_the_test_at_photos_compares_in_the_photos_own_colours_and_poses(
    banana: Path, tmp_path: Path, stub: StubFixer, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_tested_pipeline(banana)
    pipeline.config.model.use_bilateral_grid = True
    pipeline.config.model.camera_optimizer.mode = "SO3xR3"
    pipeline = pipeline.config.setup(device="cpu")
    with torch.no_grad():
        pipeline.model.bil_grids.grids.mul_(2.0)  # affine colour transforms, the identity times 2
        pipeline.model.camera_optimizer.pose_adjustment[:, 0] = 0.05
    seen: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    photos = [pipeline.datamanager.training_photo(index) for index in range(3)]

    def clean(renders, references, cameras):
        seen.extend(camera.camera_to_worlds[0, :, 3] for camera in cameras)
        given.extend(renders)
        return photos if len(renders) == 3 else renders

    stub.clean = clean
    start_loop(pipeline, tmp_path).fix(20)
    assert "reliability 100%" in " ".join(capsys.readouterr().out.split())
    moved = torch.stack(seen[:3]) - pipeline.datamanager.train_camera_to_worlds[:, :, 3]
    torch.testing.assert_close(moved.norm(dim=-1), torch.full((3,), 0.05), atol=1e-3, rtol=0)
    pipeline.eval()
    for index, render in enumerate(given[:3]):
        camera = pipeline.datamanager.train_dataset.cameras[index : index + 1]
        plain = pipeline.model.get_outputs_for_camera(pipeline.model.camera_of_photo(camera, index))["rgb"]
        torch.testing.assert_close(render, (2 * plain).clamp(0, 1), atol=1e-3, rtol=0)
