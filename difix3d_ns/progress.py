"""Progress bars of training, rendering and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bars() -> Progress:
    """Progress bars that disappear when they are finished."""
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=CONSOLE, transient=True)


@contextmanager
def frames_progress(label: str, total: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Shows a bar with frames per second and the time left; yields a function that advances it by some frames."""
    columns = [TextColumn(label), BarColumn(), MofNCompleteColumn(), _FramesPerSecond(), TimeRemainingColumn()]
    with Progress(*columns, console=CONSOLE, disable=not visible, speed_estimate_period=60) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


class _FramesPerSecond(ProgressColumn):
    """Current speed in frames per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or (task.completed / task.elapsed if task.elapsed else None)
        return Text("" if speed is None else f"{speed:.2f} frames/s")
