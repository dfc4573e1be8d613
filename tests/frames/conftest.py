"""`ns-difix enhance` with a tiny network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from difix.tiny_network import make_tiny
from torch import Tensor

from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.frames.enhance import enhance
from difix3d_ns.frames.enhance_options import EnhanceConfig

Run = Callable[..., str]
Interrupt = Callable[[int], None]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_tiny().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(model: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Cleans with the tiny network; returns the printed text in one line, with short names of inputs."""

    def clean(given: Path, output: Path, **options: object) -> str:
        capsys.readouterr()
        enhance(EnhanceConfig(given, output, **{"model": model, "max_pixels_per_batch": 2 * 16 * 24, **options}))
        return " ".join(capsys.readouterr().out.replace(f"{given.parent}{os.sep}", "").split())

    return clean


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Interrupts the next run after a number of cleaned frames, as Ctrl-C does."""

    def after(num_frames: int) -> None:
        clean, left = LazyFixer.clean, num_frames

        def counting(self: LazyFixer, renders: list[Tensor], *rest: object, **options: object) -> list[Tensor]:
            nonlocal left
            if left < len(renders):
                monkeypatch.setattr(LazyFixer, "clean", clean)
                raise KeyboardInterrupt
            left -= len(renders)
            return clean(self, renders, *rest, **options)

        monkeypatch.setattr(LazyFixer, "clean", counting)

    return after
