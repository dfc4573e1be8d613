"""Every `ns-` command imports the plugin, so the import must be fast."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["difix3d_ns.config", "difix3d_ns.cli"])
def test_importing_the_plugin_loads_no_heavy_library(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "heavy = {'diffusers', 'transformers', 'accelerate', 'peft', 'sklearn', 'numba'} & set(sys.modules); "
        "print(heavy); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_methods_are_registered_under_their_own_names() -> None:
    from nerfstudio.configs.method_configs import all_methods

    for name in ("difix3d", "difix3d-mini"):
        assert all_methods[name].method_name == name


def test_the_help_of_every_command_loads_no_heavy_library() -> None:
    code = (
        "import sys, difix3d_ns.cli; "
        "heavy = {'torch', 'torchvision', 'nerfstudio', 'av', 'cv2'} & set(sys.modules); "
        "print(heavy); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
