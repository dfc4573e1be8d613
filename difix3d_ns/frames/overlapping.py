"""Reads the next frames and writes the last ones in threads, so that the network does not wait for files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from typing_extensions import Self

Item = TypeVar("Item")
END = object()


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the same items; while the caller uses one, a thread makes the next.

    An error of `items` is raised after the items before it.
    """
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next, items, END)
        while (item := coming.result()) is not END:
            coming = executor.submit(next, items, END)
            yield item  # type: ignore[misc]


class WriteBehind:
    """Runs calls in threads. When its context ends, all submitted calls are done, even if the context ends in an error.

    Args:
        num_threads: how many calls run at once; 1 keeps their order.
    """

    def __init__(self, num_threads: int) -> None:
        self.max_waiting = 2 * num_threads
        self._executor = ThreadPoolExecutor(num_threads)
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._executor.shutdown()

    def submit(self, call: Callable[..., None], *arguments: Any) -> None:
        """Queues a call, and waits while too many are queued; raises the error of an earlier call."""
        self._waiting.append(self._executor.submit(call, *arguments))
        while self._waiting and (len(self._waiting) > self.max_waiting or self._waiting[0].done()):
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Waits until all calls are done; raises the error of a failed one."""
        while self._waiting:
            self._waiting.popleft().result()
