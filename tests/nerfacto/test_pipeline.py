"""The loop of novel views on nerfacto, and runs that are resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_nerfacto import SmallTraining, make_nerfacto_pipeline
from training_runs import StubFixer

from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.resuming.run_record import read_record


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> StubFixer:
    """The fixer of all pipelines of a test."""
    stub = StubFixer()
    monkeypatch.setattr("difix3d_ns.fixing.lazy_fixer.make_fixer", lambda config, device: stub)
    return stub


SETTINGS = {
    "fix_steps": (6, 14),
    "planned_num_iterations": 0,
    "min_accumulation": 0.0,
    "difix": DifixConfig(model="embedded"),
}


def test_a_fix_makes_pseudo_views_whose_rays_are_in_the_next_batches(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_nerfacto_pipeline(banana, **SETTINGS)
    training = SmallTraining(pipeline, tmp_path)
    training.train(6)
    assert "is_fixed" not in pipeline.datamanager.next_train(5)[1]
    training.train(7)
    printed = " ".join(capsys.readouterr().out.split())
    assert "5 novel views are fixed before steps 6, 14" in printed and "Step 6: fixed 5 novel views" in printed
    assert len(pipeline.datamanager.pseudo_views) == 5
    assert pipeline.datamanager.next_train(7)[1]["is_fixed"].sum() == 64 - 44  # photos get an even number
    assert (tmp_path / "pseudo_views" / "step-000000006" / "view-0000.png").exists()
    record = read_record(tmp_path)
    assert (record.method, record.fixes_novel_views) == ("difix3d-nerfacto", True)


def test_fixing_changes_neither_the_mode_nor_what_training_draws(banana: Path, tmp_path: Path) -> None:
    def trained(probability: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        settings = {**SETTINGS, "datamanager__pseudo_view_probability": probability}
        if probability < 0:
            settings |= {"fix_novel_views": False, "datamanager__pseudo_view_probability": 0.0}
        pipeline = make_nerfacto_pipeline(banana, **settings)
        SmallTraining(pipeline, tmp_path / str(probability)).train(16)
        assert pipeline.training and pipeline.model.training
        return pipeline.model.state_dict()

    without, unused, used = trained(-1), trained(0.0), trained(0.3)
    assert all(torch.equal(without[name], unused[name]) for name in without)
    assert any(not torch.equal(without[name], used[name]) for name in without)


@pytest.mark.parametrize("masked", [False, True])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    banana: Path, tmp_path: Path, masked: bool, edit_masks: Callable[[], Path]
) -> None:
    scene = edit_masks() if masked else banana
    torch.manual_seed(3)
    whole = SmallTraining(make_nerfacto_pipeline(scene, **SETTINGS), tmp_path / "whole")
    whole.train(11)
    state, interrupted = whole.state(), tmp_path / "whole" / "nerfstudio_models"
    whole.train(22)
    torch.manual_seed(3)
    pipeline = make_nerfacto_pipeline(scene, **SETTINGS)
    pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])  # as the viewer does
    resumed = SmallTraining(pipeline, tmp_path / "resumed", state, interrupted, num_iterations=11)
    resumed.train(22)
    first, second = whole.pipeline.state_dict(), resumed.pipeline.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def edit_masks(tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the scene whose photos have masks."""
    from scenes_of_photos import scene_of_photos

    return lambda: scene_of_photos(tmp_path / "scene", "masked")


def test_training_on_several_gpus_is_refused(banana: Path) -> None:
    config = make_nerfacto_pipeline(banana, test_mode="inference").config
    with pytest.raises(SystemExit, match="difix3d-nerfacto trains a scene on one GPU, and 2 are requested"):
        config.setup(device="cpu", world_size=2)


def test_a_diverged_training_is_named_at_the_next_fix(banana: Path, tmp_path: Path) -> None:
    pipeline = make_nerfacto_pipeline(banana, **SETTINGS)
    training = SmallTraining(pipeline, tmp_path)
    training.train(6)
    with torch.no_grad():
        for parameter in pipeline.model.field.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(SystemExit, match="novel view 0 at step 6 contains NaN"):
        training.train(7)


def test_evaluation_writes_the_depth_and_opacity_of_each_held_out_photo(banana: Path, tmp_path: Path) -> None:
    pipeline = make_nerfacto_pipeline(banana, fix_novel_views=False, difix=DifixConfig(model="embedded"))
    pipeline.get_average_eval_image_metrics(output_path=tmp_path)
    written = {file.name: Image.open(file).size for file in tmp_path.iterdir()}
    width, height = written["eval_depth_0000.png"]
    sizes = {"img": (3 * width, height), "depth": (width, height), "accumulation": (width, height)}
    assert written == {f"eval_{name}_{index:04d}.png": size for name, size in sizes.items() for index in range(5)}
