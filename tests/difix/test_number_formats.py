"""Which number format suits a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difix3d_ns.difix.number_formats import best_dtype
from difix3d_ns.difix.training.train import _mixed_precision
from difix3d_ns.difix.training.train_options import TrainConfig
from difix3d_ns.fixing.fixer import DifixConfig


@pytest.fixture
def set_capability(monkeypatch: pytest.MonkeyPatch):
    """Pretends that there are GPUs of a compute capability."""

    def pretend(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.mark.parametrize(
    ("capability", "dtype", "precision"),
    [
        ((7, 5), torch.float32, "no"),
        ((8, 0), torch.bfloat16, "bf16"),
        ((8, 9), torch.bfloat16, "bf16"),
        ((12, 0), torch.bfloat16, "bf16"),
    ],
)
def test_only_gpus_that_compute_with_bfloat16_get_it_unless_a_format_is_given(
    set_capability, capability: tuple[int, int], dtype: torch.dtype, precision: str
) -> None:
    set_capability(capability)
    for device in ("cuda", "cuda:1", torch.device("cuda", 0)):
        assert best_dtype(device) is dtype
        assert DifixConfig().torch_dtype(torch.device(device)) is dtype
    assert DifixConfig(dtype="float16").torch_dtype(torch.device("cuda")) is torch.float16
    options = {"pairs": Path("pairs.json"), "output_dir": Path("out")}
    assert _mixed_precision(TrainConfig(**options)) == precision
    assert _mixed_precision(TrainConfig(**options, mixed_precision="bf16")) == "bf16"


def test_the_cpu_computes_with_float32_whatever_the_gpu_can(set_capability) -> None:
    set_capability((9, 0))
    assert best_dtype("cpu") is best_dtype(torch.device("cpu")) is torch.float32


def test_each_gpu_of_a_machine_gets_the_format_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {0: (7, 5), 1: (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    assert [best_dtype(f"cuda:{index}") for index in (0, 1)] == [torch.float32, torch.bfloat16]


def test_without_a_gpu_training_is_not_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _mixed_precision(TrainConfig(pairs=Path("pairs.json"), output_dir=Path("out"))) == "no"
