"""What is done with a run that was trained on the GPU: resuming, evaluating, rendering, enhancing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gpu.trainings import MEANS, checkpoint, short_training, train
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from raw_reference_network import save_raw_reference_network
from scenes_of_photos import scene_of_photos

from difix3d_ns.cli import main
from difix3d_ns.cli.check import CheckCommand, check
from difix3d_ns.rendering.loading import RunOptions, load_run

pytestmark = pytest.mark.gpu

SIZE = (96, 64)
"""Width and height of the photos."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_raw_reference_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def run(network: Path, tmp_path_factory: pytest.TempPathFactory, gpu: None) -> Path:
    """The folder of a short run, whose network computes in bfloat16."""
    folder = tmp_path_factory.mktemp("trained")
    config = short_training(scene_of_photos(folder / "scene", size=SIZE), folder / "runs", network)
    config.steps_per_eval_all_images = 0
    return train(config)


@pytest.fixture
def options(run: Path) -> list[str]:
    return ["--load-config", str(run / "config.yml")]


def pictures(folder: Path) -> list[np.ndarray]:
    """The images of a folder, in [0, 255]."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))
    return [np.asarray(Image.open(file)).astype(float) for file in files]


def test_a_resumed_run_trains_its_gaussians_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader)
    config.output_dir, config.load_dir, config.load_step = tmp_path, run / "nerfstudio_models", 5
    config.pipeline.model.stop_split_at, config.max_num_iterations = 0, 4
    resumed = train(config)
    assert "Resumed with 5 pseudo views fixed at step 3" in capsys.readouterr().out
    before, after = checkpoint(run, 5)[MEANS], checkpoint(resumed, 9)[MEANS]
    assert before.shape == after.shape and (before - after).abs().mean() > 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_enhanced_output_is_computed_where_the_render_is(run: Path, dtype: str) -> None:
    def with_dtype(config):
        config.pipeline.difix.dtype = dtype
        return config

    pipeline = eval_setup(run / "config.yml", test_mode="test", update_config_callback=with_dtype)[1]
    camera = pipeline.datamanager.eval_dataset.cameras[0:1].to(pipeline.device)  # type: ignore[attr-defined]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    enhanced = outputs["rgb_enhanced"]
    assert enhanced.is_cuda and enhanced.shape == outputs["rgb"].shape and enhanced.isfinite().all()
    assert (enhanced - outputs["rgb"]).abs().mean() > 0
    metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    assert metrics["psnr"] > 5 and metrics["psnr_enhanced"] > 5


def test_evaluate_measures_the_run_and_its_flicker(options: list[str], tmp_path: Path) -> None:
    main(["evaluate", *options, "--output-dir", str(tmp_path / "out"), "--num-frames", "4", "--frame-size", "48"])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(found["views"]) == 5 and found["flicker"]["num_frames"] == 4
    assert found["mean"]["raw"]["psnr"] != found["mean"]["enhanced"]["psnr"]


def test_render_writes_the_views_of_photos(options: list[str], tmp_path: Path) -> None:
    names = ["rgb", "rgb_enhanced", "depth", "accumulation", "gt-rgb", "raw-depth"]
    main(["render", "dataset", *options, "--output-path", str(tmp_path), "--rendered-output-names", *names])
    assert {folder.name for folder in (tmp_path / "test").iterdir()} == {*names}
    raw, enhanced = (pictures(tmp_path / "test" / name) for name in ("rgb", "rgb_enhanced"))
    assert len(raw) == 5 and np.abs(raw[0] - enhanced[0]).mean() > 0


@pytest.mark.parametrize(
    "more",
    [
        ["--match-colors", "True", "--steadiness", "0.5"],
        ["--previous-frame-as-reference", "True", "--difix.dtype", "float16", "--difix.offload", "True"],
        ["--render-nearest-camera", "True", "--references.choice", "overlap"],
        ["--difix.model", "embedded", "--references.align", "auto", "--clear-unseen", "True"],
    ],
)
def test_render_writes_the_frames_of_a_path(more: list[str], options: list[str], tmp_path: Path) -> None:
    path = ["--pose-source", "train", "--interpolation-steps", "2", "--output-format", "images"]
    names = ["--rendered-output-names", "rgb", "rgb_enhanced"]
    main(["render", "interpolate", *options, *path, *names, *more, "--output-path", str(tmp_path / "out")])
    frames = pictures(tmp_path / "out")
    assert len(frames) == 4
    raw, enhanced = frames[0][:, : SIZE[0]], frames[0][:, SIZE[0] : 2 * SIZE[0]]
    assert raw.shape == enhanced.shape and np.abs(raw - enhanced).mean() > 0


def test_fog_and_guesses_are_missing_in_enhanced_renders(options: list[str]) -> None:
    loaded = load_run(Path(options[1]), RunOptions({"model": "embedded"}, {"align": "auto"}, clear_unseen=True))
    camera = loaded.cameras("test")[:1].to("cuda")
    model: Any = loaded.model
    pose = camera.camera_to_worlds[0]
    with torch.no_grad():
        model.gauss_params["means"][0] = pose[:, 3] - 0.02 * pose[:, 2]
        model.gauss_params["scales"][0] = -4.5
        model.gauss_params["opacities"][0] = 5.0
        model.gauss_params["features_dc"][0] = 2.0
    (frame,) = loaded.render([camera])
    assert frame["rgb_enhanced"].device.type == "cuda"
    assert frame["rgb"].mean() - frame["rgb_enhanced"].mean() > 0.1


@pytest.mark.parametrize("more", [[], ["--previous-frame-as-reference"], ["--dtype", "float16", "--strength", "0.5"]])
def test_enhance_cleans_images(more: list[str], run: Path, network: Path, tmp_path: Path) -> None:
    photos = run.parents[3] / "scene" / "images"
    assert photos.is_dir()
    options = ["--model", str(network), "--device", "cuda", "--reference", str(photos), *more]
    main(["enhance", str(photos), str(tmp_path / "out"), *options])
    before, after = pictures(photos), pictures(tmp_path / "out")
    assert len(before) == len(after) == 8 and np.abs(before[0] - after[0]).mean() > 0


def test_check_says_that_the_gpu_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    check(CheckCommand())
    assert re.search(r"CUDA: +usable, compute capability \d", capsys.readouterr().out)
    assert torch.cuda.is_available()
