"""The command lines of the README on a real scene at a small size."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import needs_ffmpeg, run, serving_viewer
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
NUM_HELD_OUT = 5
SMALL = ["--pipeline.datamanager.camera-res-scale-factor", "0.5", "--pipeline.model.max-gaussians", "2000"]


def train(output_dir: Path, *arguments: object, method: str = "difix3d-mini", expect: int = 0) -> tuple[Path, str]:
    """Trains on the small scene; returns the run's folder and the output."""
    base = ["ns-train", method, "--data", BANANA, "--output-dir", output_dir, "--vis", "tensorboard"]
    printed = run(*base, *SMALL, *arguments, expect=expect)
    folders = sorted(path.parent for path in output_dir.rglob("config.yml"))
    return folders[-1] if folders else output_dir, printed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run of the demo method with two fixes."""
    return train(
        tmp_path_factory.mktemp("trained"),
        *("--max-num-iterations", 120, "--pipeline.planned-num-iterations", 0, "--steps-per-save", 60),
        *("--save-only-latest-checkpoint", False, "--pipeline.fix-steps", 50, 90, "--pipeline.early-fix-steps"),
        *("--pipeline.model.warmup-length", 10),
    )


def test_training_fixes_novel_views_and_reports_it(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert "5 novel views are fixed before steps 50, 90" in printed
    lines = re.findall(r"Step (\d+): fixed 5 novel views .* in [\d.]+ s", printed)
    assert lines == ["50", "90"]
    assert "Difix: " in printed
    assert "model: embedded" in (folder / "config.yml").read_text()
    saved = sorted((folder / "pseudo_views").iterdir())
    assert [path.name for path in saved] == ["step-000000050", "step-000000090"]
    for path in sorted(saved[-1].glob("view-????.png")):
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (159, 240, 3) and pixels.std() > 5, path


def test_tensorboard_gets_images_before_and_after_the_fix(trained: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0]), size_guidance={"images": 0})
    events.Reload()
    fixed = [tag for tag in events.Tags()["images"] if "fixed" in tag]
    assert len(fixed) == 4
    assert [image.step for image in events.Images(fixed[0])] == [50, 90]


def test_checkpoints_contain_no_network(trained: tuple[Path, str]) -> None:
    (checkpoint,) = (trained[0] / "nerfstudio_models").glob("step-000000119.ckpt")
    # 2000 Gaussians of 23 numbers, and two Adam moments for each number.
    assert checkpoint.stat().st_size < 2_000_000


def test_evaluation_measures_raw_and_enhanced_renders(trained: tuple[Path, str], tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    printed = run("ns-eval", "--load-config", trained[0] / "config.yml", "--output-path", output)
    results = json.loads(output.read_text())["results"]
    assert {"psnr", "ssim", "psnr_enhanced", "ssim_enhanced"} <= results.keys()
    assert results["psnr"] > 8 and results["psnr"] != results["psnr_enhanced"]
    assert "lpips" in results or printed.count("LPIPS is left out") == 1


def test_rendering_the_dataset_gives_raw_and_enhanced_images(trained: tuple[Path, str], tmp_path: Path) -> None:
    names = ["--rendered-output-names", "rgb", "rgb_enhanced"]
    run("ns-render", "dataset", "--load-config", trained[0] / "config.yml", "--output-path", tmp_path, *names)
    raw, enhanced = (sorted((tmp_path / "test" / name).glob("*.jpg")) for name in ("rgb", "rgb_enhanced"))
    assert len(raw) == len(enhanced) == NUM_HELD_OUT
    difference = np.asarray(Image.open(raw[0])).astype(float) - np.asarray(Image.open(enhanced[0]))
    assert 0 < np.abs(difference).mean() < 60


@needs_ffmpeg
def test_rendering_a_camera_path_gives_its_frames(trained: tuple[Path, str], tmp_path: Path) -> None:
    # At a training photo's camera: where no photo shows anything, the embedded network changes nothing.
    photos = NerfstudioDataParserConfig(data=BANANA).setup().get_dataparser_outputs("train").cameras
    camera_to_world = np.vstack([photos.camera_to_worlds[1].numpy(), [0, 0, 0, 1]])
    path = {
        "camera_type": "perspective",
        "render_height": 80,
        "render_width": 120,
        "fps": 2,
        "seconds": 1,
        "camera_path": [
            {"camera_to_world": camera_to_world.flatten().tolist(), "fov": fov, "aspect": 1.5} for fov in (40, 50, 60)
        ],
    }
    (tmp_path / "path.json").write_text(json.dumps(path))
    arguments = ["--load-config", trained[0] / "config.yml", "--camera-path-filename", tmp_path / "path.json"]
    # nerfstudio writes videos with the ffmpeg program, which may not be installed; images do not need it.
    output = ["--output-format", "images", "--output-path", tmp_path / "frames"]
    run("ns-render", "camera-path", *arguments, "--rendered-output-names", "rgb", "rgb_enhanced", *output)
    frames = sorted((tmp_path / "frames").iterdir())
    assert len(frames) == 3
    both = np.asarray(Image.open(frames[1])).astype(float)
    assert both.shape == (80, 240, 3)
    assert np.abs(both[:, :120] - both[:, 120:]).max() > 0


def test_the_splat_is_exported(trained: tuple[Path, str], tmp_path: Path) -> None:
    run("ns-export", "gaussian-splat", "--load-config", trained[0] / "config.yml", "--output-dir", tmp_path)
    header = (tmp_path / "splat.ply").read_bytes()[:200]
    assert re.search(rb"element vertex [1-9]\d{2,}", header)


def test_an_interrupted_run_resumes_with_its_pseudo_views_and_keeps_training(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    import torch

    first = trained[0]
    checkpoints = tmp_path / "interrupted" / "nerfstudio_models"
    checkpoints.mkdir(parents=True)
    for path in (first / "pseudo_views", first / "config.yml"):
        (checkpoints.parent / path.name).symlink_to(path)
    saved = checkpoints / "step-000000060.ckpt"
    saved.symlink_to(first / "nerfstudio_models" / saved.name)
    folder, printed = train(
        tmp_path / "resumed",
        *("--load-dir", checkpoints, "--max-num-iterations", 59, "--pipeline.planned-num-iterations", 0),
        *("--pipeline.fix-steps", 50, 90, "--pipeline.early-fix-steps", "--pipeline.model.stop-split-at", 0),
    )
    assert "Resumed with 5 pseudo views fixed at step 50" in printed
    assert re.findall(r"Step (\d+): fixed 5", printed) == ["90"]
    before = torch.load(saved, weights_only=False)["pipeline"]["_model.gauss_params.means"]
    (last,) = (folder / "nerfstudio_models").glob("*.ckpt")
    after = torch.load(last, weights_only=False)["pipeline"]["_model.gauss_params.means"]
    assert last.name == "step-000000119.ckpt"
    assert before.shape == after.shape
    assert (before - after).abs().mean() > 1e-5


def test_the_published_schedule_is_scaled_to_a_short_run(tmp_path: Path) -> None:
    folder, printed = train(
        tmp_path, "--max-num-iterations", 40, "--pipeline.fix-steps", 15_000, "--pipeline.difix.model", "embedded",
        "--pipeline.few-photos", "no", method="difix3d",
    )  # fmt: skip
    assert re.findall(r"Step (\d+): fixed 5", printed) == ["20"]
    assert (folder / "nerfstudio_models" / "step-000000039.ckpt").exists()


def test_the_viewer_serves_a_trained_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    with serving_viewer("--load-config", trained[0] / "config.yml", log=tmp_path / "log") as page:
        assert "<html" in page.lower()


def test_training_with_the_viewer_runs_to_its_end(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    viewer = ["--vis", "viewer", "--viewer.quit-on-train-completion", "True", "--viewer.websocket-port", port]
    _, printed = train(tmp_path, *viewer, "--max-num-iterations", 20, "--pipeline.fix-steps", 800)
    assert "Step 10: fixed 5 novel views" in printed
    assert "Training Finished" in printed


def test_pairs_are_curated_and_a_network_is_trained_on_them(tmp_path: Path) -> None:
    from difix3d_ns.difix.pipeline import DifixPipeline

    pairs = ["--scenes", BANANA, "--test-scenes", BANANA, "--output-dir", tmp_path / "pairs"]
    printed = run("ns-difix", "curate", *pairs, "--strategies", "sparse", "--num-iterations", 5)
    assert "rendered 5 views at step 5" in printed
    index = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert len(index["train"]) == len(index["test"]) == NUM_HELD_OUT
    for entry in index["train"].values():
        assert np.asarray(Image.open(tmp_path / "pairs" / entry["image"])).shape == (319, 480, 3)
    settings = ["--steps", 3, "--crop-size", 64, "--max-validation-pairs", 1]
    run("ns-difix", "train", "--pairs", tmp_path / "pairs" / "pairs.json", "--output-dir", tmp_path / "out", *settings)
    (found,) = {path.parent for path in (tmp_path / "out").rglob("model_index.json")}
    assert DifixPipeline.from_pretrained(found)(Image.new("RGB", (32, 24))).images[0].size == (32, 24)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--pipeline.difix.model", "nowhere/folder/deep"], "nowhere/folder/deep"),
    ],
)
def test_bad_input_ends_in_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    command = ["ns-train", "difix3d-mini", "--data", BANANA, "--output-dir", tmp_path, "--vis", "tensorboard"]
    printed = run(*command, "--max-num-iterations", 20, *arguments, expect=1)
    (error,) = [line for line in printed.splitlines() if line.startswith("difix3d: ")]
    assert sentence in error
    assert "Traceback" not in printed


def test_a_checkpoint_of_another_method_ends_in_one_sentence(tmp_path: Path) -> None:
    import torch

    foreign = tmp_path / "foreign" / "step-000000010.ckpt"
    foreign.parent.mkdir()
    # As nerfacto's checkpoints: no advice about the camera optimizer is given for a scene that cannot be loaded.
    state = {"_model.field.weight": torch.zeros(3), "_model.camera_optimizer.pose_adjustment": torch.zeros(3, 6)}
    torch.save({"step": 10, "pipeline": state, "optimizers": {}}, foreign)
    _, printed = train(tmp_path / "run", "--load-checkpoint", foreign, "--max-num-iterations", 20, expect=1)
    assert "difix3d: the checkpoint contains no Gaussians" in printed
