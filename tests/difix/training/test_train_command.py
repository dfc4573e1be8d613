"""`ns-difix train` as a command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from difix3d_ns.cli import main


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
