"""`difix3d-nerfacto` through the command lines, on a real scene at a tiny size."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from e2e.commands import needs_ffmpeg, run, serving_viewer
from nerfstudio.configs.method_configs import method_configs
from PIL import Image
from raw_reference_network import save_raw_reference_network
from small_nerfacto import TINY_MODEL

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
NUM_HELD_OUT = 5
SETTINGS = ("num_levels", "log2_hashmap_size", "max_res", "hidden_dim", "hidden_dim_color", "num_nerf_samples_per_ray")
SMALL = [
    *("--pipeline.datamanager.camera-res-scale-factor", 0.2, "--pipeline.datamanager.train-num-rays-per-batch", 256),
    *(part for name in SETTINGS for part in (f"--pipeline.model.{name.replace('_', '-')}", TINY_MODEL[name])),
    *("--pipeline.model.num-proposal-samples-per-ray", 16, 8, "--pipeline.min-accumulation", 0),
    *("--pipeline.difix.model", "embedded", "--pipeline.planned-num-iterations", 0, "--vis", "tensorboard"),
]


def train(output_dir: Path, *arguments: object, expect: int = 0) -> tuple[Path, str]:
    """Trains on the small scene; returns the run's folder and the output without line breaks."""
    base = ["ns-train", "difix3d-nerfacto", "--data", BANANA, "--output-dir", output_dir]
    printed = run(*base, *SMALL, *arguments, expect=expect)
    folders = sorted(path.parent for path in output_dir.rglob("config.yml"))
    return folders[-1] if folders else output_dir, " ".join(printed.split())


def state_of(folder: Path) -> dict:
    return torch.load(sorted((folder / "nerfstudio_models").glob("*.ckpt"))[-1], weights_only=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 30 steps with two fixes, and its checkpoint of step 20."""
    return train(
        tmp_path_factory.mktemp("trained"),
        *("--max-num-iterations", 30, "--pipeline.fix-steps", 10, 25),
        *("--steps-per-save", 20, "--save-only-latest-checkpoint", "False"),
    )


def test_training_fixes_novel_views(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert "5 novel views are fixed before steps 10, 25" in printed
    assert re.findall(r"Step (\d+): fixed 5 novel views", printed) == ["10", "25"]
    assert "On the CPU, difix3d-nerfacto takes days" in printed
    assert [path.name for path in sorted((folder / "pseudo_views").iterdir())] == ["step-000000010", "step-000000025"]
    assert np.asarray(Image.open(folder / "pseudo_views" / "step-000000025" / "view-0000.png")).shape == (63, 96, 3)
    assert not any("lpips" in name for name in state_of(folder)["pipeline"])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(trained: tuple[Path, str], tmp_path: Path) -> None:
    first = trained[0]
    checkpoints = tmp_path / "interrupted" / "nerfstudio_models"
    checkpoints.mkdir(parents=True)
    for path in (first / "pseudo_views", first / "config.yml", first / "start.json"):
        (checkpoints.parent / path.name).symlink_to(path)
    (checkpoints / "step-000000020.ckpt").symlink_to(first / "nerfstudio_models" / "step-000000020.ckpt")
    folder, printed = train(
        tmp_path / "resumed", "--load-dir", checkpoints, "--max-num-iterations", 9, "--pipeline.fix-steps", 10, 25
    )
    assert "Resumed with 5 pseudo views fixed at step 10" in printed
    assert re.findall(r"Step (\d+): fixed 5", printed) == ["25"]
    whole, resumed = state_of(first), state_of(folder)
    assert whole["step"] == resumed["step"] == 29
    assert all(torch.equal(value, resumed["pipeline"][name]) for name, value in whole["pipeline"].items())


@pytest.fixture(scope="module")
def config_with_raw_references(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's config with a network that takes photos as they are, as references of a NeRF are."""
    network = save_raw_reference_network(tmp_path_factory.mktemp("network"))
    config = yaml.load((trained[0] / "config.yml").read_text(), yaml.Loader)
    config.pipeline.difix.model = str(network)
    changed = trained[0] / "config-raw-references.yml"
    changed.write_text(yaml.dump(config))
    return changed


def test_evaluation_and_renders_have_the_enhanced_output(config_with_raw_references: Path, tmp_path: Path) -> None:
    config = config_with_raw_references
    run("ns-eval", "--load-config", config, "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert {"psnr", "ssim", "psnr_enhanced", "ssim_enhanced"} <= results.keys()
    names = ["rgb", "rgb_enhanced", "coverage"]
    run("ns-render", "dataset", "--load-config", config, "--output-path", tmp_path, "--rendered-output-names", *names)
    rendered = {name: sorted((tmp_path / "test" / name).glob("*.jpg")) for name in names}
    assert {len(files) for files in rendered.values()} == {NUM_HELD_OUT}
    raw, enhanced = (np.asarray(Image.open(rendered[name][0])).astype(float) for name in names[:2])
    assert raw.shape == (63, 96, 3) and 0 < np.abs(raw - enhanced).mean() < 60


@needs_ffmpeg
def test_a_path_is_rendered_with_the_appearance_of_a_photo(trained: tuple[Path, str], tmp_path: Path) -> None:
    frames = [{"camera_to_world": np.eye(4).flatten().tolist(), "fov": 50, "aspect": 1.5}] * 2
    path = {"camera_type": "perspective", "render_height": 40, "render_width": 60, "fps": 2, "seconds": 1}
    (tmp_path / "path.json").write_text(json.dumps({**path, "camera_path": frames}))
    arguments = ["--load-config", trained[0] / "config.yml", "--camera-path-filename", tmp_path / "path.json"]
    for index, extra in enumerate(([], ["--camera-idx", 1])):
        output = ["--output-format", "images", "--output-path", tmp_path / str(index), *extra]
        run("ns-render", "camera-path", *arguments, "--rendered-output-names", "rgb", "rgb_enhanced", *output)
    first, second = (np.asarray(Image.open(sorted((tmp_path / name).iterdir())[0])).astype(int) for name in "01")
    assert first.shape == (40, 120, 3) and np.abs(first - second).max() > 0


def test_the_commands_of_this_package_work_on_the_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    config = trained[0] / "config.yml"
    run("ns-difix", "render", "dataset", "--load-config", config, "--output-path", tmp_path / "renders")
    assert len(list((tmp_path / "renders" / "test" / "rgb_enhanced").iterdir())) == NUM_HELD_OUT
    options = ["--steadiness", 0.5, "--output-format", "images", "--output-path", tmp_path / "path"]
    run("ns-difix", "render", "interpolate", "--load-config", config, "--interpolation-steps", 1, *options)
    run("ns-difix", "evaluate", "--load-config", config, "--output-dir", tmp_path / "report", "--num-frames", 2)
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert report["mean"].keys() == {"raw", "enhanced"} and len(report["views"]) == NUM_HELD_OUT


def test_the_viewer_serves_the_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    with serving_viewer("--load-config", trained[0] / "config.yml", log=tmp_path / "log") as page:
        assert "<html" in page.lower()


@pytest.fixture(scope="module")
def nerfacto(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a nerfacto run without appearance embeddings and with a wider field, as after 30000 steps.

    nerfstudio's own nerfacto starts only after it has downloaded a network.
    """
    folder = tmp_path_factory.mktemp("nerfacto")
    wide = ["--pipeline.model.hidden-dim-color", 24, "--pipeline.model.use-appearance-embedding", "False"]
    plain, _ = train(folder / "plain", *wide, "--max-num-iterations", 3, "--pipeline.fix-novel-views", "False")
    config, own = deepcopy(method_configs["nerfacto"]), yaml.load((plain / "config.yml").read_text(), yaml.Loader)
    config.data = BANANA
    for setting in fields(config.pipeline.model):
        if setting.name != "_target":
            setattr(config.pipeline.model, setting.name, getattr(own.pipeline.model, setting.name))
    (folder / "config.yml").write_text(yaml.dump(config))
    state = {**state_of(plain), "step": 29_999}
    (folder / "nerfstudio_models").mkdir()
    torch.save(state, folder / "nerfstudio_models" / "step-000029999.ckpt")
    (folder / "dataparser_transforms.json").write_text((plain / "dataparser_transforms.json").read_text())
    return folder


def test_a_nerfacto_run_continues_with_its_own_model(nerfacto: Path, tmp_path: Path) -> None:
    arguments = ["--load-dir", nerfacto / "nerfstudio_models", "--pipeline.fix-steps", 4, "--max-num-iterations", 8]
    # Typed settings hold, so the run's own are taken only where the default is left.
    place = SMALL.index("--pipeline.model.hidden-dim-color")
    small = SMALL[:place] + SMALL[place + 2 :]
    base = ["ns-train", "difix3d-nerfacto", "--data", BANANA, "--output-dir", tmp_path]
    printed = " ".join(run(*base, *small, *arguments).split())
    assert "--pipeline.model.use-appearance-embedding False" in printed
    assert "--pipeline.model.hidden-dim-color 24" in printed
    assert "Starts from the nerfacto checkpoint of step 29999" in printed and "to step 30008." in printed
    assert re.findall(r"Step (\d+): fixed 5", printed) == ["30004"]
    assert "Gaussian" not in printed


def test_what_does_not_fit_the_checkpoint_ends_in_one_sentence(nerfacto: Path, tmp_path: Path) -> None:
    _, printed = train(tmp_path, "--load-dir", nerfacto / "nerfstudio_models", "--max-num-iterations", 8, expect=1)
    assert printed.count("difix3d: ") == 1 and "mlp_head" in printed and "Traceback" not in printed


def test_options_of_splats_are_not_offered(tmp_path: Path) -> None:
    printed = run("ns-train", "difix3d-nerfacto", "--help")
    assert not re.search("gaussian|max-gaussians|overlap|num-candidates|sh-degree", printed, re.IGNORECASE)
    _, printed = train(tmp_path, "--pipeline.references.choice", "overlap", expect=2)
    assert "references.choice" in printed
