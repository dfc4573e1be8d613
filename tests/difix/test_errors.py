"""A full memory is told apart from damaged content, wherever files are read."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from difix3d_ns.difix.errors import DifixMemoryError, is_full_memory, refuse_full_memory
from difix3d_ns.difix.settings import read_settings
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.resuming.checkpoints import explained_misfit, newest_readable_step, require_readable
from difix3d_ns.resuming.run_record import read_record

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB."),
    torch.cuda.OutOfMemoryError("8 GB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_memory_is_named_with_a_remedy(error: Exception) -> None:
    assert is_full_memory(error)
    with pytest.raises(
        DifixMemoryError, match=r"^the memory is full \(.+\): end other .*max-gaussians of ns-train\)\.$"
    ):
        refuse_full_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), OSError(errno.ENOENT, "no"), ValueError("memory")])
def test_other_errors_are_no_full_memory(error: Exception) -> None:
    refuse_full_memory(error)


def raise_full(*args: object, **kwargs: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def misfit() -> None:
    with explained_misfit("of step 7"):
        raise_full()


def unreadable() -> None:
    try:
        raise_full()
    except RuntimeError as error:
        raise unreadable_scene(Path("scene"), error) from error


@pytest.mark.parametrize("read", [misfit, unreadable])
def test_a_full_memory_is_not_taken_for_a_checkpoint_or_a_scene_that_is_bad(read: Callable[[], None]) -> None:
    with pytest.raises(DifixMemoryError, match=r"the memory is full \(CUDA out of memory\)"):
        read()


def test_a_full_memory_does_not_make_files_look_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-000000007.ckpt").write_bytes(b"content")
    monkeypatch.setattr(torch, "load", raise_full)
    monkeypatch.setattr(Path, "read_text", raise_full)
    for read in (
        lambda: require_readable(tmp_path / "step-000000007.ckpt"),
        lambda: newest_readable_step(tmp_path),
        lambda: read_settings(tmp_path / "config.json"),
        lambda: read_record(tmp_path),
    ):
        with pytest.raises(DifixMemoryError, match="the memory is full"):
            read()


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_command_ends_with_one_sentence_for_a_full_memory(error: Exception) -> None:
    with pytest.raises(SystemExit, match=r"difix3d: the memory is full") as caught, exit_with_one_sentence():
        raise error
    assert "\n" not in str(caught.value).strip()
    with pytest.raises(RuntimeError, match="a bug"), exit_with_one_sentence():
        raise RuntimeError("a bug")
    with pytest.raises(SystemExit, match="difix3d: no"), exit_with_one_sentence():
        raise Difix3DError("no")
