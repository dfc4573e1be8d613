"""gsplat's CUDA kernels are loaded with the model, or the run ends in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from training_runs import make_pipeline

from difix3d_ns.errors import Difix3DError
from difix3d_ns.machine.loading_kernels import load_gsplat_kernels
from difix3d_ns.model import Difix3DModel, Difix3DModelConfig

BACKEND = "gsplat.cuda._backend"
"""The module whose import compiles or loads the kernels."""


class Backend(ModuleType):
    """Takes the place of gsplat's module.

    Args:
        fault: what its import raises, if anything.
        kernels: the kernels that it loads; None where gsplat finds no nvcc.
    """

    def __init__(self, fault: Exception | None = None, kernels: object = "kernels") -> None:
        super().__init__(BACKEND)
        self.num_loads = 0
        self._fault, self._kernels = fault, kernels

    def __getattr__(self, name: str) -> object:
        if name != "_C":
            raise AttributeError(name)
        self.num_loads += 1
        if self._fault is not None:
            raise self._fault
        return self._kernels


def use(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> Backend:
    monkeypatch.setitem(sys.modules, BACKEND, backend)
    return backend


def make_model(**where: str) -> Difix3DModel:
    """A model as the pipeline makes it, before it is moved to its device."""
    points = torch.randn(20, 3), torch.randint(0, 256, (20, 3))
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return Difix3DModelConfig().setup(scene_box=box, num_train_data=3, seed_points=points, **where)


def test_a_model_for_a_gpu_loads_the_kernels_before_its_first_render(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = use(monkeypatch, Backend())
    make_model(device="cuda:0")
    assert backend.num_loads == 1


def test_on_the_cpu_no_kernels_are_loaded(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = use(monkeypatch, Backend())
    make_model()
    make_pipeline(banana)
    assert backend.num_loads == 0


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        (
            Backend(
                RuntimeError(
                    "Error building extension 'gsplat_cuda': [1/9] nvcc --use_fast_math -o a.o\nFAILED: a.o\n"
                    "csrc/a.cu(3): error: identifier glm is undefined\nninja: build stopped: subcommand failed."
                )
            ),
            r"\(csrc/a\.cu\(3\): error: identifier glm is undefined\): the command python -c",
        ),
        (
            Backend(RuntimeError("The detected CUDA version (12.0) mismatches the version of PyTorch (13.0).\nMore.")),
            r"loaded \(The detected CUDA version \(12\.0\) mismatches the version of PyTorch \(13\.0\)\): the command",
        ),
        (Backend(ImportError("gsplat_cuda.so: undefined symbol: _Z3foo")), "undefined symbol: _Z3foo"),
        (
            Backend(kernels=None),
            "finds no nvcc to compile them: ns-difix check .*; on the CPU, ns-train runs with --mach",
        ),
    ],
)
def test_kernels_that_cannot_be_loaded_end_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, backend: Backend, sentence: str
) -> None:
    use(monkeypatch, backend)
    with pytest.raises(Difix3DError, match=sentence):
        make_model(device="cuda")


def test_a_full_memory_is_not_taken_for_a_fault_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Backend(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(torch.OutOfMemoryError):
        load_gsplat_kernels(torch.device("cuda", 1))
