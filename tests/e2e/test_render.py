"""`ns-difix render` on a short run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from e2e.commands import needs_ffmpeg, run
from PIL import Image

pytestmark = pytest.mark.e2e

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a run of 30 steps."""
    output = tmp_path_factory.mktemp("run")
    small = ["--pipeline.datamanager.camera-res-scale-factor", 0.25, "--pipeline.fix-novel-views", "False"]
    base = ["ns-train", "difix3d-mini", "--data", BANANA, "--output-dir", output, "--vis", "tensorboard"]
    run(*base, *small, "--max-num-iterations", 30)
    (found,) = output.rglob("config.yml")
    return found


def test_a_spiral_is_rendered_side_by_side(config: Path, tmp_path: Path) -> None:
    options = ["--seconds", 0.1, "--output-format", "images", "--rendered-output-names", "rgb", "rgb_enhanced"]
    printed = run("ns-difix", "render", "spiral", "--load-config", config, "--output-path", tmp_path / "out", *options)
    frames = sorted((tmp_path / "out").iterdir())
    assert "Rendered 2 frames of 120 x 79" in printed and len(frames) == 2
    both = np.asarray(Image.open(frames[0])).astype(float)
    assert both.shape == (79, 240, 3)
    assert 0 < np.abs(both[:, :120] - both[:, 120:]).mean() < 60


@needs_ffmpeg
def test_rendering_without_the_enhanced_output_loads_no_diffusion_library(config: Path, tmp_path: Path) -> None:
    # transformers is not checked: nerfstudio's metrics use torchmetrics, which loads it.
    code = (
        "import sys; from nerfstudio.scripts.render import entrypoint; entrypoint(); "
        "print('loaded:', sorted({'diffusers', 'difix3d_ns.difix.pipeline'} & set(sys.modules)))"
    )
    options = ["--interpolation-steps", 1, "--output-format", "images", "--output-path", tmp_path / "out"]
    printed = run(sys.executable, "-c", code, "interpolate", "--load-config", config, *options)
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert "loaded: []" in printed


def test_bad_input_ends_in_one_sentence(config: Path, tmp_path: Path) -> None:
    (tmp_path / "path.json").write_text(json.dumps({"camera_path": []}))
    path = ["--camera-path-filename", tmp_path / "path.json"]
    printed = run("ns-difix", "render", "camera-path", "--load-config", config, *path, expect=1, cwd=tmp_path)
    assert "difix3d: the camera path" in printed and "has no frames" in printed and "Traceback" not in printed
