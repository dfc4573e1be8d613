"""Reading ahead and writing behind, so that the network does not wait for files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from typing_extensions import Self

Item = TypeVar("Item")
END = object()


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; while one is worked on, the next is made in a thread. An error comes in its turn."""
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next, items, END)
        while (item := coming.result()) is not END:
            coming = executor.submit(next, items, END)
            yield item  # type: ignore[misc]


class WriteBehind:
    """Runs calls in threads; at its end all are done, also those before an error elsewhere.

    Args:
        num_threads: how many calls run together; 1 keeps their order.
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
        """Runs a call soon; raises what an earlier one raised."""
        self._waiting.append(self._executor.submit(call, *arguments))
        while self._waiting and (len(self._waiting) > self.max_waiting or self._waiting[0].done()):
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Returns when all calls are done; raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()
