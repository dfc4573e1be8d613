"""The command line `ns-difix train`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difix3d_ns.cli import main
from difix3d_ns.difix.pipeline import DifixPipeline


def test_the_command_trains_and_prints_the_metrics(
    pairs_json: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "--pairs": pairs_json,
        "--output-dir": tmp_path / "out",
        "--base": tiny_base,
        "--steps": 2,
        "--crop-size": 32,
        "--loss.ssim": 0.25,
        "--loss.backbone": "none",
    }
    main(["train", *(str(part) for option in options.items() for part in option)])
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["config"]["loss"]["ssim"] == 0.25
    assert f"{written['metrics']['psnr_nothing']:.4f}" in capsys.readouterr().out


def test_a_mistake_of_the_user_ends_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"difix3d: the pairs .*nowhere\.json cannot be read"):
        main(["train", "--pairs", str(tmp_path / "nowhere.json"), "--output-dir", str(tmp_path / "out")])


def run_module(options: dict[str, object], *flags: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(part) for option in options.items() for part in option]
    command = [sys.executable, "-m", "difix3d_ns.cli.train", *arguments, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_module_trains_in_bf16_with_accumulation_and_prints_its_settings(
    pairs_json: Path, tiny_base: Path, tmp_path: Path
) -> None:
    options = {
        "--pairs": pairs_json,
        "--output-dir": tmp_path / "out",
        "--base": tiny_base,
        "--steps": 2,
        # Below 40, the deepest level downscales a single pixel, for which torch's bf16 gradient on a CPU is undefined.
        "--crop-size": 40,
        "--learning-rate": 1e-4,
        "--gradient-accumulation-steps": 2,
        "--mixed-precision": "bf16",
        "--loss.backbone": "none",
    }
    done = run_module(options, "--gradient-checkpointing", "--save-pkl")
    assert done.returncode == 0, done.stderr
    assert "No VGG-16, because --loss.backbone is none. Losses: l2. Left out for lack of VGG-16" in done.stdout
    assert "Each step trains on 2 pairs (processes: 1, batches per process: 2, pairs per batch: 1)." in done.stdout
    assert "RuntimeWarning" not in done.stderr  # which Python gives if the module is already loaded
    image = torch.rand(1, 3, 24, 32)
    folder, checkpoint = (
        DifixPipeline.from_pretrained(source, base=tiny_base)(image, output_type="pt").images
        for source in (tmp_path / "out", tmp_path / "out" / "model.pkl")
    )
    torch.testing.assert_close(checkpoint, folder, atol=1e-5, rtol=0)


def test_a_broken_image_ends_the_module_with_its_name_and_exit_code_one(
    pairs_json: Path, tiny_base: Path, tmp_path: Path
) -> None:
    (pairs_json.parent / "render_0.png").write_bytes(b"no picture")
    options = {"--pairs": pairs_json, "--output-dir": tmp_path / "out", "--base": tiny_base, "--crop-size": 32}
    done = run_module({**options, "--loss.backbone": "none", "--steps": 20})
    assert done.returncode == 1
    assert f"difix3d: the image {pairs_json.parent / 'render_0.png'} of pair view_0 cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_asking_for_help_loads_no_diffusion_library() -> None:
    code = (
        "import sys\n"
        "from difix3d_ns.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(str([name for name in ('torch', 'diffusers', 'nerfstudio') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--learning-rate" in result.stdout
    assert result.stderr.strip() == "[]"
