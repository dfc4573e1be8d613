"""Downloading from the hub as long as something comes; a server that drips does not hold a training up for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread

from difix3d_ns.difix.errors import DifixError

PATIENCE_SECONDS = 300.0
"""How long nothing may come. The hub's client writes pieces of 10 MB, so slower than 35 kB/s counts as nothing."""
SECONDS_BETWEEN_LOOKS = 0.5


def download(name: str, commit: str, files: Sequence[str]) -> None:
    """Brings files of a repository into the hub's cache, with a progress bar each; those that are there are left.

    Args:
        name: the repository.
        commit: full hash of the commit.
        files: their paths in the repository.

    Raises:
        DifixError: nothing came for `PATIENCE_SECONDS`.
        Exception: of the hub's client, which raises many unrelated types.
    """
    from huggingface_hub import constants, hf_hub_download

    done: Future[None] = Future()
    given_up = Event()

    def bring() -> None:
        try:
            for file in files:
                if given_up.is_set():
                    return
                hf_hub_download(name, file, revision=commit)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    # The client gives up on silence alone. Its own threads are waited for at the end of the program, a daemon is not.
    Thread(target=bring, name=f"download of {name}", daemon=True).start()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    size, since = _allocated(folder), time.monotonic()
    while not done.done():
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if (now := _allocated(folder)) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            given_up.set()
            raise DifixError(f"nothing came for {PATIENCE_SECONDS:.0f} s, or less than 10 MB of a file")
    done.result()


def _allocated(folder: Path) -> int:
    """Bytes on the disk below a folder; what is told of a file's length may be ahead of what came."""
    size = 0
    for path in folder.glob("blobs/*"):
        try:
            about = path.stat()
        except OSError:  # it was just put into place
            continue
        size += getattr(about, "st_blocks", about.st_size // 512) * 512  # Windows does not tell blocks
    return size
