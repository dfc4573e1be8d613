"""Options of `ns-difix render` that use the previous enhanced frame, so that videos flicker less."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.cli.render import main
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.rendering.runs import Run

Calls = list[tuple[list[torch.Tensor], list[torch.Tensor | None]]]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces the network by a flickering one, which adds 0.02 to every second frame; returns its calls."""
    made: Calls = []
    count = 0

    def clean(
        self, renders: Sequence[torch.Tensor], references: Sequence[torch.Tensor | None], cameras: object
    ) -> list[torch.Tensor]:
        nonlocal count
        made.append(([*renders], [*references]))
        results = [(0.5 * render + 0.02 * ((count + i) % 2)).clamp(0, 1) for i, render in enumerate(renders)]
        count += len(renders)
        return results

    monkeypatch.setattr(LazyFixer, "clean", clean)
    return made


@pytest.fixture(autouse=True)
def all_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the depth of the untrained runs by an opaque wall, so that neighbouring frames can be compared."""
    render = Run._render

    def walled(self, camera, crop):
        outputs = render(self, camera, crop)
        outputs["depth"] = torch.ones_like(outputs["accumulation"])
        outputs["accumulation"] = torch.ones_like(outputs["accumulation"])
        return outputs

    monkeypatch.setattr(Run, "_render", walled)


def frames_of(config: Path, output: Path, camera_path: Path, *options: object) -> list[np.ndarray]:
    images = ["--output-format", "images", "--image-format", "png", "--camera-path-filename", camera_path]
    arguments = ["--load-config", config, "--output-path", output, *images, *options]
    main(["camera-path", *map(str, arguments)])
    return [np.asarray(Image.open(file)).astype(float) / 255 for file in sorted(output.iterdir())]


@pytest.fixture
def standing(camera_path) -> Path:
    """A path of four frames from one camera."""
    frame = {"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0.8, 0, 0, 0, 1], "fov": 50, "aspect": 1.5}
    return camera_path(camera_path=[frame] * 4)


@pytest.mark.parametrize("frames_at_once", [1, 3])
def test_a_steady_video_changes_less_from_frame_to_frame(
    splatfacto_run: Path, tmp_path: Path, standing: Path, frames_at_once: int
) -> None:
    batch = ["--difix.max-pixels-per-batch", frames_at_once * 16 * 24]
    plain = frames_of(splatfacto_run, tmp_path / "plain", standing, *batch, "--steadiness", 0)
    steady = frames_of(splatfacto_run, tmp_path / "steady", standing, *batch, "--steadiness", 0.5)
    changes = [np.abs(np.diff(np.stack(frames), axis=0)).mean(axis=(1, 2, 3)) for frames in (plain, steady)]
    assert (changes[0] > 0.018).all()
    assert (changes[1] < 0.65 * changes[0]).all() and (changes[1] > 0.1 * changes[0]).all()
    assert np.array_equal(plain[0], steady[0])


@pytest.mark.parametrize(
    ("options", "steadied"),
    [
        ([], True),
        (["--references.align", "none"], False),
        (["--difix.strength", 0], False),
        (["--difix.use-reference", "False"], False),
        (["--previous-frame-as-reference", "True"], False),
    ],
)
def test_frames_with_aligned_references_are_steadied_unless_that_is_turned_off(
    splatfacto_run: Path,
    tmp_path: Path,
    standing: Path,
    options: list[object],
    steadied: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = frames_of(splatfacto_run, tmp_path / "default", standing, *options)
    printed = " ".join(capsys.readouterr().out.split())
    plain = frames_of(splatfacto_run, tmp_path / "plain", standing, *options, "--steadiness", 0)
    assert ("Enhanced frames are steadied with --steadiness 0.5" in printed) == steadied
    assert "steadied" not in capsys.readouterr().out
    assert np.array_equal(frames, plain) != steadied


def test_frames_of_a_ray_based_run_are_steadied_too(nerfacto_run: Path, tmp_path: Path, standing: Path) -> None:
    plain = frames_of(nerfacto_run, tmp_path / "plain", standing)
    steady = frames_of(nerfacto_run, tmp_path / "steady", standing, "--steadiness", 0.5)
    assert np.abs(steady[1] - steady[0]).mean() < 0.75 * np.abs(plain[1] - plain[0]).mean()


PREVIOUS = ("--previous-frame-as-reference", "True", "--references.align", "none")
"""The embedded network takes aligned references; these are what a published one gets."""


def test_the_previous_enhanced_frame_is_the_reference_of_the_next(
    splatfacto_run: Path, tmp_path: Path, camera_path, calls: Calls
) -> None:
    shown = frames_of(splatfacto_run, tmp_path / "out", camera_path(), *PREVIOUS)
    assert [len(renders) for renders, _ in calls] == [1, 1, 1]
    first, *others = [references[0] for _, references in calls]
    assert first is not None and first.shape[:2] == (31, 48)  # a photo of the scene
    for reference, frame in zip(others, shown, strict=False):
        assert reference is not None and np.abs(reference.numpy() - frame).max() < 1.01 / 255


def test_only_the_last_of_the_previous_frames_is_kept(
    splatfacto_run: Path, tmp_path: Path, standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render, alive = Run.render, []
    made: list[weakref.ref] = []

    def watched(self, *args, **kwargs):
        gc.collect()
        alive.append(sum(each() is not None for each in made))
        frames = render(self, *args, **kwargs)
        made.extend(weakref.ref(frame["rgb_enhanced"]) for frame in frames)
        made.extend(weakref.ref(frame["depth"]) for frame in frames)
        return frames

    monkeypatch.setattr(Run, "render", watched)
    both = ["--steadiness", 0.5, "--previous-frame-as-reference", "True"]
    frames_of(splatfacto_run, tmp_path / "out", standing, *both)
    assert len(alive) == 4 and max(alive[2:]) <= alive[1] + 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steadiness", 1], "--steadiness is 1"),
        (["--steadiness", -0.5], "--steadiness is -0.5"),
        (["--previous-frame-as-reference", "True", "--difix.use-reference", "False"], "exclude each other"),
    ],
)
def test_invalid_options_end_in_one_sentence(
    splatfacto_run: Path, tmp_path: Path, standing: Path, options: list, sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence):
        frames_of(splatfacto_run, tmp_path / "out", standing, *options)
    assert not (tmp_path / "out").exists()


def test_equirectangular_frames_cannot_be_steadied(nerfacto_run: Path, tmp_path: Path, camera_path) -> None:
    path = camera_path(camera_type="equirectangular")
    with pytest.raises(SystemExit, match="equirectangular cameras"):
        frames_of(nerfacto_run, tmp_path / "out", path, "--steadiness", 0.5)
    assert not (tmp_path / "out").exists()
