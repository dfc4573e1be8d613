"""The network and the references that a finished run is loaded with: as it was trained, but what is given holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.model import Difix3DModel
from difix3d_ns.rendering.loading import RunOptions, load_run

COMMIT = "3" * 40
EMBEDDED = {"model": "embedded"}


def change_config(run: Path, **settings: object) -> None:
    """Changes the pipeline's settings in the config of a run."""
    config = yaml.load(run.read_text(), Loader=yaml.Loader)
    for name, value in settings.items():
        setattr(config.pipeline, name, value)
    run.write_text(yaml.dump(config))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"strength": 0.5}, DifixConfig("a/b", COMMIT, strength=0.5)),
        ({"model": "a/b"}, DifixConfig("a/b", COMMIT)),
        ({"model": "a/b", "revision": "v1"}, DifixConfig("a/b", "v1")),
        ({"model": "c/d"}, DifixConfig("c/d", None)),
        ({"model": "auto"}, DifixConfig("auto", None)),
    ],
)
def test_the_commit_of_a_run_applies_only_to_its_own_network(
    difix3d_run: Path, given: dict[str, Any], expected: DifixConfig
) -> None:
    change_config(difix3d_run, difix=DifixConfig("a/b", COMMIT))
    assert load_run(difix3d_run, RunOptions(given)).enhancer.fixer.config == expected


TRAINED = DifixConfig(
    "a/b", COMMIT, "base", "float16", 7, use_reference=False, strength=0.7, offload=True, compile=True
)
CHOICE = ReferenceConfig("overlap", 3, 0.5, 2.0)


def test_a_given_value_holds_even_if_it_is_the_default(difix3d_run: Path) -> None:
    change_config(difix3d_run, difix=TRAINED, references=CHOICE)
    difix, references = vars(DifixConfig()) | {"model": "a/b"}, vars(ReferenceConfig())
    enhancer = load_run(difix3d_run, RunOptions(difix, references)).enhancer
    assert enhancer.fixer.config == DifixConfig("a/b") and enhancer.references == ReferenceConfig()


def test_without_given_values_a_run_is_loaded_as_it_was_trained_but_with_the_network_on_its_device(
    difix3d_run: Path,
) -> None:
    change_config(difix3d_run, difix=TRAINED, references=CHOICE)
    enhancer = load_run(difix3d_run, RunOptions()).enhancer
    assert enhancer.fixer.config == replace(TRAINED, offload=False) and enhancer.references == CHOICE
    assert load_run(difix3d_run, RunOptions({"offload": True})).enhancer.fixer.config == TRAINED


@pytest.mark.parametrize(
    ("settings", "given", "blurs"),
    [
        ({"fix_novel_views": True}, None, False),
        ({"fix_novel_views": False}, None, True),
        ({"fix_novel_views": False, "few_photos": "no"}, None, False),
        ({"fix_novel_views": False, "blur_unseen": False}, None, False),
        ({"fix_novel_views": False, "blur_unseen": False}, True, True),
        ({"fix_novel_views": True}, True, True),
        ({"fix_novel_views": False}, False, False),
    ],
)
def test_what_few_photos_do_not_show_is_blurred_in_runs_without_fixes_or_as_given(
    difix3d_run: Path, settings: dict[str, Any], given: bool | None, blurs: bool
) -> None:
    change_config(difix3d_run, **settings)
    run = load_run(difix3d_run, RunOptions(EMBEDDED, clear_unseen=given))
    assert run.enhancer.clears_unseen() is blurs


def test_what_few_photos_do_not_show_is_blurred_in_splatfacto_runs(splatfacto_run: Path) -> None:
    assert load_run(splatfacto_run, RunOptions(EMBEDDED)).enhancer.clears_unseen()
    assert not load_run(splatfacto_run, RunOptions(EMBEDDED, {"align": "none"})).enhancer.clears_unseen()


def test_fog_in_a_splatfacto_run_is_missing_in_its_enhanced_frames(splatfacto_run: Path) -> None:
    images = []
    for cleared in (None, False):
        run = load_run(splatfacto_run, RunOptions(EMBEDDED, clear_unseen=cleared))
        camera = run.cameras("test")[:1]
        place, forward = camera.camera_to_worlds[0, :, 3], -camera.camera_to_worlds[0, :, 2]
        assert isinstance(run.model, Difix3DModel)
        with torch.no_grad():
            gaussians = run.model.gauss_params
            # Before the camera, and so small that the photos, which are farther away, show little of it.
            gaussians["means"][0] = place + 0.02 * forward
            gaussians["scales"][0] = -4.5
            gaussians["opacities"][0] = 5.0
            gaussians["features_dc"][0] = 2.0
        (frame,) = run.render([camera])
        images.append((frame["rgb"], frame["rgb_enhanced"]))
    (render, cleared_frame), (same_render, foggy) = images
    assert torch.equal(render, same_render)
    assert render.mean() > 0.8 and foggy.mean() > 0.8
    assert cleared_frame.mean() < 0.7
