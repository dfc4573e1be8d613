"""`ns-difix enhance` as users run it: killed and resumed, with two processes, and on videos with sound."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import OFFLINE, run
from PIL import Image, ImageFilter
from videos.footage import packets

from difix3d_ns.videos.reader import VideoReader

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana"
SIZE = (120, 80)
LAUNCH = ["accelerate", "launch", "--multi_gpu", "--num_processes", 2, "-m", "difix3d_ns.cli.enhance"]


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene's photos, shrunk and blurred, under the names of the photos."""
    folder = tmp_path_factory.mktemp("renders")
    for photo in (BANANA / "images").iterdir():
        with Image.open(photo) as image:
            image.convert("RGB").resize(SIZE).filter(ImageFilter.GaussianBlur(1)).save(folder / f"{photo.stem}.png")
    return folder


@pytest.fixture(scope="module")
def video(renders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of the renders forwards and backwards at 12 frames per second, with a tone."""
    from fractions import Fraction

    import av

    file = tmp_path_factory.mktemp("video") / "walk.mp4"
    pictures = [np.asarray(Image.open(path)) for path in sorted(renders.iterdir())]
    with av.open(str(file), "w") as container:
        stream, sound = container.add_stream("libx264", rate=12), container.add_stream("aac", rate=44100)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(pictures[abs(index % 14 - 7)], "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        for start in range(0, 2 * 44100, 1024):
            wave = (8000 * np.sin((start + np.arange(1024)) / 20)).astype(np.int16)
            block = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "s16", "stereo")
            block.sample_rate, block.pts, block.time_base = 44100, start, Fraction(1, 44100)
            container.mux(sound.encode(block))
        container.mux(stream.encode())
        container.mux(sound.encode())
    return file


@pytest.fixture(scope="module")
def cleaned(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video cleaned by one uninterrupted command."""
    output = tmp_path_factory.mktemp("cleaned") / "cleaned.mp4"
    printed = run("ns-difix", "enhance", video, output, "--frames-per-piece", 4)
    assert "Difix: the embedded small network" in printed
    assert "24 frames written without a change in" in printed and "frames/s" in printed
    return output


def test_a_video_keeps_length_rate_and_sound_and_is_encoded_again(video: Path, cleaned: Path) -> None:
    before, after = VideoReader(video), VideoReader(cleaned)
    assert (len(after), after.fps, after.height, after.width) == (24, 12, *SIZE[::-1])
    assert packets(cleaned, "audio") == packets(video, "audio")
    changes = [float((a - b).abs().mean()) for a, b in zip(before, after, strict=True)]
    assert all(0.003 < change < 0.15 for change in changes), changes
    assert [path.name for path in cleaned.parent.iterdir()] == ["cleaned.mp4"]


def kill_when(done, *command: object) -> None:
    """Starts a command and kills it as soon as `done` returns True."""
    process = subprocess.Popen([str(part) for part in command], env=OFFLINE, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not done():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_video_resumes_to_the_same_file(video: Path, cleaned: Path, tmp_path: Path) -> None:
    output = tmp_path / "cleaned.mp4"
    command = ["ns-difix", "enhance", video, output, "--frames-per-piece", 4]
    pieces = tmp_path / "cleaned.mp4.unfinished"
    kill_when(lambda: len(list(pieces.glob("*.nut"))) >= 2, *command)
    assert not output.exists()
    assert "add --resume" in run(*command, expect=1)
    printed = run(*command, "--resume")
    assert "of them finished earlier" in printed
    assert output.read_bytes() == cleaned.read_bytes()
    assert not pieces.exists()


def test_a_killed_folder_of_images_has_only_complete_files_and_resumes(renders: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "cleaned"
    options = ["--reference", BANANA / "images", "--max-pixels-per-batch", SIZE[0] * SIZE[1]]
    assert "matched by name" in run("ns-difix", "enhance", renders, whole, *options)
    kill_when(lambda: len(list(output.glob("*.png"))) >= 2, "ns-difix", "enhance", renders, output, *options)
    for file in output.glob("*.png"):
        assert file.read_bytes() == (whole / file.name).read_bytes()
    run("ns-difix", "enhance", renders, output, "--resume", *options)
    pictures = {file.name: file.read_bytes() for file in whole.iterdir()}
    assert {file.name: file.read_bytes() for file in output.iterdir()} == pictures


def test_two_processes_write_the_same_files_as_one(video: Path, cleaned: Path, renders: Path, tmp_path: Path) -> None:
    printed = run(*LAUNCH, video, tmp_path / "cleaned.mp4", "--frames-per-piece", 4)
    assert "by 2 processes" in printed
    assert (tmp_path / "cleaned.mp4").read_bytes() == cleaned.read_bytes()
    run(*LAUNCH, renders, tmp_path / "two")
    run("ns-difix", "enhance", renders, tmp_path / "one")
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 8


def test_several_processes_end_with_one_sentence(renders: Path, tmp_path: Path) -> None:
    printed = run(*LAUNCH, renders, tmp_path / "out", "--previous-frame-as-reference", expect=1)
    assert printed.count("difix3d: --previous-frame-as-reference cleans the frames one after the other") == 1
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in renders.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    last = max(damaged.iterdir())
    last.write_bytes(last.read_bytes()[:200])
    printed = run(*LAUNCH, damaged, tmp_path / "out", expect=1)
    assert printed.count("difix3d: the image") == 1 and last.name in printed
    assert len(list((tmp_path / "out").iterdir())) >= 3  # written by the other process


def test_a_scene_gives_each_frame_the_nearest_training_photo(renders: Path, tmp_path: Path) -> None:
    scene = BANANA / "transforms_biased3.json"
    options = ["--reference", scene, "--camera-path", BANANA / "transforms.json"]
    printed = run("ns-difix", "enhance", renders, tmp_path / "out", *options)
    assert "nearest by pose" in printed
    assert len(json.loads(scene.read_text())["train_filenames"]) == 3
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_the_help_explains_the_usual_commands() -> None:
    printed = " ".join(run("ns-difix", "enhance", "--help").replace("│", " ").split())
    for words in (
        "ns-difix enhance walk.mp4 cleaned.mp4",
        "--reference",
        "--previous-frame-as-reference",
        "the network adds no noise",
        "accelerate launch --multi_gpu -m difix3d_ns.cli.enhance",
    ):
        assert words in printed
