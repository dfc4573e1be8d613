"""Reading ahead and writing behind use bounded memory, keep the order and report every error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from difix3d_ns.frames.overlapping import WriteBehind, read_ahead


def test_no_more_than_one_item_is_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for index in range(6):
            made.append(index)
            yield index

    for count, item in enumerate(read_ahead(items())):
        assert item == count
        assert len(made) <= count + 2
    assert made == list(range(6))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("broken")

    seen = []
    with pytest.raises(OSError, match="broken"):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_one_thread_keeps_the_order_and_completes_all_calls_even_if_the_run_fails() -> None:
    written: list[int] = []
    with pytest.raises(KeyboardInterrupt), WriteBehind(1) as writer:
        for index in range(10):
            writer.submit(written.append, index)
        raise KeyboardInterrupt
    assert written == list(range(10))


def test_submitting_waits_while_many_calls_are_queued() -> None:
    gate, started = threading.Event(), threading.Event()
    submitted: list[int] = []

    def submit_many() -> None:
        with WriteBehind(1) as writer:
            for index in range(20):
                writer.submit(lambda: (started.set(), gate.wait()))
                submitted.append(index)

    thread = threading.Thread(target=submit_many)
    thread.start()
    started.wait()
    thread.join(timeout=0.2)  # cannot end while the gate is closed
    assert len(submitted) <= 3
    gate.set()
    thread.join()
    assert len(submitted) == 20


def test_the_error_of_a_call_is_raised() -> None:
    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"), WriteBehind(2) as writer:
        writer.submit(fail)
