"""`ns-difix evaluate` on runs of other methods."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from PIL import Image

from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.report import evaluate
from difix3d_ns.evaluation.run import RunSource
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.model import Difix3DModel

NUM_HELD_OUT = 5


@pytest.fixture(autouse=True)
def darkening_fixer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network by one that halves all colours."""
    monkeypatch.setattr(LazyFixer, "clean", lambda self, renders, *_: [render / 2 for render in renders])


@pytest.mark.parametrize(
    ("method", "reference"), [("splatfacto", "photos aligned by depth"), ("nerfacto", "nearest photo")]
)
def test_a_run_of_another_method_is_measured_raw_and_enhanced(
    method: str, reference: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = request.getfixturevalue(f"{method}_run")
    evaluate(EvaluateConfig(tmp_path / "out", load_config=config, model="embedded", num_frames=2, frame_size=48))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(found["views"]) == NUM_HELD_OUT and found["facts"]["network"] == "embedded"
    assert found["facts"]["reference"] == reference
    for view in found["views"]:
        raw, enhanced, photo = (
            np.asarray(Image.open(tmp_path / "out" / view["files"][kind])).astype(float) / 255
            for kind in ("raw", "enhanced", "photo")
        )
        assert raw.shape == enhanced.shape == photo.shape == (31, 48, 3)
        assert np.abs(enhanced - raw / 2).max() < 1.01 / 255
        assert photo.std() > 0.05
        psnr = -10 * np.log10(((raw - photo) ** 2).mean())
        assert view["raw"]["psnr"] == pytest.approx(psnr, abs=0.05)
    video = found["flicker"]
    assert video is None or video["num_frames"] == 2


def test_flicker_is_measured_along_a_camera_path(difix3d_run: Path, tmp_path: Path, camera_path) -> None:
    options = {"model": "embedded", "num_frames": 2, "camera_path": camera_path()}
    source = RunSource(EvaluateConfig(tmp_path / "out", load_config=difix3d_run, **options))
    frames = list(source.frames())
    assert [frame.images["raw"].shape for frame in frames] == [(16, 24, 3)] * source.num_frames == [(16, 24, 3)] * 2
    # The first two of the path's three frames are used; the second one has a wider field of view.
    assert frames[0].geometry.K[0, 0] > frames[1].geometry.K[0, 0]


def test_a_missing_scene_ends_in_one_sentence(splatfacto_run: Path, banana: Path, tmp_path: Path) -> None:
    text = splatfacto_run.read_text()
    assert banana.name in text
    splatfacto_run.write_text(text.replace(banana.name, "nowhere.json"))
    with pytest.raises(Difix3DError, match=r"cannot be loaded: .*nowhere"):
        evaluate(EvaluateConfig(tmp_path / "out", load_config=splatfacto_run, model="embedded"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "strength"), [(None, "0.7"), (1.0, "1")])
def test_a_given_strength_holds_even_if_it_is_the_default(
    difix3d_run: Path, tmp_path: Path, given: float | None, strength: str
) -> None:
    config = yaml.load(difix3d_run.read_text(), Loader=yaml.Loader)
    config.pipeline.difix.strength = 0.7
    difix3d_run.write_text(yaml.dump(config))
    source = RunSource(EvaluateConfig(tmp_path / "out", load_config=difix3d_run, strength=given, num_frames=0))
    assert source.facts["strength"] == strength


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, "photos aligned by depth"),
        ({"references": ReferenceConfig(align="none")}, "nearest photo"),
        ({"references": ReferenceConfig("overlap", align="none")}, "photo with the largest overlap"),
        ({"difix": DifixConfig("embedded", use_reference=False)}, "none"),
    ],
)
def test_the_reference_is_told_as_the_network_gets_it(
    difix3d_run: Path, tmp_path: Path, settings: dict[str, Any], reference: str
) -> None:
    config = yaml.load(difix3d_run.read_text(), Loader=yaml.Loader)
    for name, value in settings.items():
        setattr(config.pipeline, name, value)
    difix3d_run.write_text(yaml.dump(config))
    source = RunSource(EvaluateConfig(tmp_path / "out", load_config=difix3d_run, model="embedded", num_frames=0))
    assert source.facts["reference"] == reference


class RenderingByItself(Model):
    """A model of which nobody knows what its depth measures."""

    def get_outputs_for_camera(self, camera, obb_box=None):
        raise NotImplementedError


class HeldOut:
    """Three held-out photos of a kind, side by side; only their cameras are used."""

    def __init__(self, kind: CameraType) -> None:
        poses = torch.eye(4)[:3].repeat(3, 1, 1)
        poses[:, 0, 3] = torch.arange(3)
        self.cameras = Cameras(poses, 10.0, 10.0, 8.0, 6.0, 16, 12, camera_type=kind)

    def __len__(self) -> int:
        return len(self.cameras)


@pytest.mark.parametrize(
    ("model", "kind", "can_be_warped"),
    [
        (Difix3DModel, CameraType.PERSPECTIVE, True),
        (NerfactoModel, CameraType.PERSPECTIVE, True),
        (NerfactoModel, CameraType.EQUIRECTANGULAR, True),  # the path's own cameras are perspective ones
        (NerfactoModel, CameraType.FISHEYE, True),
        (RenderingByItself, CameraType.PERSPECTIVE, False),
    ],
)
def test_flicker_that_cannot_be_measured_is_left_out_unless_it_is_asked_for(
    tmp_path: Path, model: type[Model], kind: CameraType, can_be_warped: bool
) -> None:
    source = RunSource.__new__(RunSource)  # without a run, of which only the following is used
    source._photos = HeldOut(kind)
    source._pipeline = SimpleNamespace(model=model.__new__(model))
    source.facts = {}
    config = EvaluateConfig(tmp_path / "out", load_config=tmp_path / "config.yml")
    assert (source._camera_path(config, None) is not None) is can_be_warped
    assert ("flicker" not in source.facts) is can_be_warped
    asked = source._camera_path(replace(config, num_frames=4), None)
    given = source._camera_path(config, HeldOut(CameraType.PERSPECTIVE).cameras)
    assert asked is not None and len(asked) == 4
    assert given is not None and len(given) == 3


def test_a_strength_without_effect_is_refused(difix3d_run: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tmp_path / "out", load_config=difix3d_run, model="identity", strength=0.5)
    with pytest.raises(Difix3DError, match="--strength has no effect with the network identity"):
        evaluate(config)
    assert not (tmp_path / "out").exists()


def test_the_warnings_of_a_camera_path_are_printed(
    difix3d_run: Path, tmp_path: Path, camera_path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = camera_path()
    content = json.loads(file.read_text())
    for frame in content["camera_path"]:
        frame["fov"] = 0.87
    crop = {"crop_center": [0, 0, 0], "crop_scale": [1, 1, 1], "crop_bg_color": {"r": 0, "g": 0, "b": 0}}
    file.write_text(json.dumps({**content, "crop": crop}))
    RunSource(EvaluateConfig(tmp_path / "out", load_config=difix3d_run, model="embedded", camera_path=file))
    printed = " ".join(capsys.readouterr().out.split())
    assert "such as 0.87. They are vertical and in degrees" in printed
    assert "Flicker is measured on the whole scene." in printed


def test_more_frames_than_a_camera_path_has_are_refused(difix3d_run: Path, tmp_path: Path, camera_path) -> None:
    options = {"model": "embedded", "num_frames": 4, "camera_path": camera_path()}
    with pytest.raises(Difix3DError, match="has only 3 frames"):
        RunSource(EvaluateConfig(tmp_path / "out", load_config=difix3d_run, **options))
