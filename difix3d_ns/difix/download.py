"""Asks whether servers answer, and downloads from the hub unless a slow server makes no progress for too long."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread

from difix3d_ns.difix.errors import DifixError

CONNECT_TIMEOUT_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
"""Time without progress after which a download is given up. The hub's client writes chunks of 10 MB, so anything slower
than 35 kB/s counts as no progress."""
SECONDS_BETWEEN_LOOKS = 0.5


def answers(url: str) -> bool:
    """Whether a server has this file and answers within a few seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_TIMEOUT_SECONDS):
            return True
    except (OSError, HTTPException, ValueError):  # no answer, not HTTP, or not a URL, as that of a proxy may be
        return False


def download(name: str, commit: str, files: Sequence[str]) -> None:
    """Downloads a repository's files into the hub's cache, with one progress bar per file. Cached files are skipped.

    Args:
        name: id of the repository.
        commit: full commit hash.
        files: paths of the files in the repository.

    Raises:
        DifixError: no data arrived for `PATIENCE_SECONDS`.
        Exception: any of the many unrelated types that the hub's client raises.
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

    # The client itself gives up only if nothing at all arrives. A daemon thread does not keep the program from ending,
    # as the threads of a pool would.
    Thread(target=bring, name=f"download of {name}", daemon=True).start()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    size, since = _allocated(folder), time.monotonic()
    while not done.done():
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if (now := _allocated(folder)) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            given_up.set()
            raise DifixError(f"less than 10 MB arrived in {PATIENCE_SECONDS:.0f} s")
    done.result()


def _allocated(folder: Path) -> int:
    """Bytes that the blobs of a cache folder take on the disk. A file's nominal size may exceed what has arrived."""
    size = 0
    for path in folder.glob("blobs/*"):
        try:
            about = path.stat()
        except OSError:  # the file has just been moved into place
            continue
        size += getattr(about, "st_blocks", about.st_size // 512) * 512  # Windows does not report blocks
    return size
