"""Cleans one process's share of the frames. Reading, cleaning and writing overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import FullDiskError
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.given_references import References
from difix3d_ns.frames.overlapping import WriteBehind, read_ahead
from difix3d_ns.frames.sinks import Sink
from difix3d_ns.frames.sources import Frame, Source
from difix3d_ns.progress import frames_progress

if TYPE_CHECKING:
    from accelerate import PartialState

Unit = list[range]
"""Batches that are finished together: one batch of images, or all batches of one piece of a video."""


@dataclass
class Outcome:
    """What one process did."""

    num_frames: int = 0
    """Number of frames that it cleaned."""
    seconds: float = 0.0
    """Seconds that this took, without loading the network."""
    bad: list[str] = field(default_factory=list)
    """A sentence for each frame that it skipped."""
    unchanged: bool = False
    """Whether the network left the frames as they are, because it needs aligned references."""
    error: str = ""
    """The error that ended it early, in one sentence; empty if there was none."""


@dataclass
class Work:
    """Everything that is needed to clean the frames."""

    source: Source
    sink: Sink
    references: References
    fixer: LazyFixer
    config: EnhanceConfig


def clean_share(work: Work, units: Sequence[Unit] | None, state: PartialState) -> Outcome:
    """Cleans this process's part of the units."""
    outcome = Outcome()
    try:
        with offering_resume(), state.split_between_processes(list(units or [])) as share:
            if share:
                _clean_units(work, cast("list[Unit]", share), outcome, state)
    except (Difix3DError, DifixError) as error:
        outcome.error = str(error)
    return outcome


def _clean_units(work: Work, units: Sequence[Unit], outcome: Outcome, state: PartialState) -> None:
    batches = [batch for unit in units for batch in unit]
    total = sum(map(len, batches))
    label = f"process 1 of {state.num_processes}" if state.num_processes > 1 else "frames"
    on_bad = outcome.bad.append if work.config.skip_bad else None
    clean = _clean_after_previous(work) if work.config.previous_frame_as_reference else _clean_batch(work)
    outcome.unchanged = work.fixer.takes_aligned_references()  # loads it before the time of frames is measured
    started = time.perf_counter()
    try:
        with (
            frames_progress(label, total, state.is_main_process) as advance,
            WriteBehind(work.sink.num_writers) as writer,
        ):
            for batch, frames in read_ahead(work.source.read(batches, on_bad)):
                pictures = clean(batch, frames)
                cleaned = [
                    (frame.index, frame.picture.cleaned(rgb)) for frame, rgb in zip(frames, pictures, strict=True)
                ]
                writer.submit(work.sink.write, batch, cleaned)
                if work.config.previous_frame_as_reference:
                    writer.wait()  # the next frame needs what was written
                outcome.num_frames += len(frames)
                advance(len(batch))
    finally:
        work.sink.abort()
        outcome.seconds = time.perf_counter() - started


Clean = Callable[[range, Sequence[Frame]], "list[Float[Tensor, 'height width 3']]"]


def _clean_batch(work: Work) -> Clean:
    """Returns a function that cleans the frames of a batch together, each with its reference."""

    def clean(batch: range, frames: Sequence[Frame]) -> list[Tensor]:
        renders = [frame.picture.over_black() for frame in frames]
        return _fix(work, frames, renders, [work.references[frame.index] for frame in frames])

    return clean


def _clean_after_previous(work: Work) -> Clean:
    """Returns a function that cleans one frame at a time, with the previous cleaned frame as reference."""
    before: list[tuple[Frame, Tensor]] = []  # the last cleaned frame and its result
    position = 0  # index after the last batch

    def clean(batch: range, frames: Sequence[Frame]) -> list[Tensor]:
        nonlocal position
        follows, position = position == batch.start, batch.stop
        if not follows:
            before.clear()
        if not frames:
            return []
        (frame,) = frames
        if before:
            last, rgb = before[0]
            reference = work.sink.as_written(last.index, last.picture.cleaned(rgb))
        else:
            reference = work.sink.last_before(batch.start)
        if reference is None:
            reference = work.references[frame.index]
        (rgb,) = _fix(work, frames, [frame.picture.over_black()], [reference])
        before[:] = [(frame, rgb)]
        return [rgb]

    return clean


def _fix(work: Work, frames: Sequence[Frame], renders: list[Tensor], references: list[Tensor | None]) -> list[Tensor]:
    if not frames:
        return []
    try:
        return work.fixer.clean(renders, references)
    except DifixError as error:
        first, last = (work.source.name(frame.index) for frame in (frames[0], frames[-1]))
        named = f"{first}" if first == last else f"{first} to {last}"
        raise Difix3DError(f"{named} cannot be cleaned: {error}") from error


@contextmanager
def offering_resume() -> Iterator[None]:
    """Adds to the error of a full disk how to continue."""
    try:
        yield
    except FullDiskError as error:
        raise FullDiskError(error.file, "add --resume to continue") from error
