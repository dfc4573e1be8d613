"""Cleans all frames. Reading, cleaning and writing overlap; processes started by `accelerate launch` share the work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import FullDiskError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.given_settings import require_used_difix
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.frames.destinations import open_sink
from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.given_references import References, find_references
from difix3d_ns.frames.losses import losses
from difix3d_ns.frames.overlapping import WriteBehind, read_ahead
from difix3d_ns.frames.sinks import Sink
from difix3d_ns.frames.sources import Frame, Source, open_source

if TYPE_CHECKING:
    from accelerate import PartialState

LONGEST_WAIT = timedelta(days=365)
"""How long a finished process waits for the others. PyTorch's default of some minutes is too short."""
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


def enhance(config: EnhanceConfig) -> None:
    """Cleans the frames of the configured input.

    Raises:
        Difix3DError: an option is invalid, input and output do not fit, or a frame cannot be read, cleaned or written.
            Finished frames are kept. Only the main process raises it; the others exit with code 1.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object

    # The processes exchange only messages, which needs no GPU: the GPUs are left to the networks.
    state = PartialState(cpu=True, timeout=LONGEST_WAIT)
    try:
        work, units, error = _prepare(config, state)
        errors = [sentence for sentence in gather_object([error]) if sentence]
        if errors:
            _end(errors[0], state)
        (units,) = broadcast_object_list([units])
        assert work is not None
        outcomes: list[Outcome] = gather_object([_clean_share(work, units, state)])
        for sentence in (outcome.error for outcome in outcomes if outcome.error):
            _end(sentence, state)
        if state.is_main_process and units is not None:
            with _offering_resume():
                work.sink.finish()
            _report(config, outcomes)
        state.wait_for_everyone()
    finally:
        state.destroy_process_group()


def _prepare(config: EnhanceConfig, state: PartialState) -> tuple[Work | None, list[Unit] | None, str]:
    """Opens input and output.

    Returns:
        The work; the units that are left, which only the main process knows, or None if all are finished; and an error
        in one sentence, or "".
    """
    try:
        config.check()
        if config.previous_frame_as_reference and state.num_processes > 1:
            raise Difix3DError(
                "--previous-frame-as-reference cleans the frames one after the other, so several processes cannot "
                "share them: start the command without accelerate launch."
            )
        source = open_source(config.input)
        fixer = LazyFixer(config.network(), _device(config, state))
        require_used_difix(fixer, _changed(config.network()), "--")
        names = [source.name(index) for index in range(len(source))]
        references = find_references(config.reference, config.camera_path, names)
        sink = open_sink(config, source, _settings(config, source, fixer))
        work = Work(source, sink, references, fixer, config)
        if not state.is_main_process:
            return work, None, ""
        if sink.prepare(config.resume):
            _say(f"All frames are already in {config.output}.")
            return work, None, ""
        units = sink.unfinished(1 if config.previous_frame_as_reference else config.max_pixels_per_batch)
        _announce(work, units, state)
    except (Difix3DError, DifixError) as error:
        return None, None, str(error)
    return work, units, ""


def _announce(work: Work, units: Sequence[Unit], state: PartialState) -> None:
    total, left = len(work.source), sum(len(batch) for unit in units for batch in unit)
    earlier = f", {total - left} of them finished earlier" if left < total else ""
    processes = f" by {state.num_processes} processes" if state.num_processes > 1 else ""
    _say(f"Cleaning {total} frames of {work.config.input} into {work.config.output}{processes}{earlier}.")
    for sentence in losses(work.config, work.source, work.sink):
        _say(sentence)
    _say(f"Difix: {work.fixer.resolve().reason}")
    if work.config.previous_frame_as_reference:
        first = f" The first frame uses {work.references.photos[0]}." if work.references.how else ""
        _say(f"References: the previous cleaned frame, so frames are cleaned one by one.{first}")
    elif work.references.how:
        _say(f"References: {work.references.how}")


def _clean_share(work: Work, units: Sequence[Unit] | None, state: PartialState) -> Outcome:
    """Cleans this process's part of the units."""
    outcome = Outcome()
    try:
        with _offering_resume(), state.split_between_processes(list(units or [])) as share:
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
        with _progress(label, total, state.is_main_process) as advance, WriteBehind(work.sink.num_writers) as writer:
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


def _settings(config: EnhanceConfig, source: Source, fixer: LazyFixer) -> dict[str, str]:
    """The settings that must be the same for all frames of one output, by option name."""
    settings = {
        "input": os.path.realpath(config.input) if config.input.exists() else str(config.input),
        "number of frames": len(source),
        "--model": fixer.resolve().name,
        "--revision": config.revision,
        "--dtype": fixer.config.torch_dtype(fixer.device),
        "--strength": config.strength,
        "--reference": config.reference,
        "--camera-path": config.camera_path,
        "--previous-frame-as-reference": config.previous_frame_as_reference,
        "--fps": config.fps,
        "--crf": config.crf,
        "--video-bits": config.video_bits,
        "--frames-per-piece": config.frames_per_piece,
    }
    return {name: str(value) for name, value in settings.items()}


def _changed(network: DifixConfig) -> dict[str, Any]:
    """The settings of the network that differ from their defaults, by field name."""
    return {name: value for name, value in asdict(network).items() if value != getattr(DifixConfig, name)}


def _device(config: EnhanceConfig, state: PartialState) -> str:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise Difix3DError(
            "--device cuda is given, but PyTorch finds no GPU: leave out the option, or give --device cpu."
        )
    if config.device == "cpu" or not available:
        return "cpu"
    return f"cuda:{state.local_process_index % torch.cuda.device_count()}"


@contextmanager
def _offering_resume() -> Iterator[None]:
    """Adds to the error of a full disk how to continue."""
    try:
        yield
    except FullDiskError as error:
        raise FullDiskError(error.file, "add --resume to continue") from error


def _end(sentence: str, state: PartialState) -> None:
    """Ends this process; only the main process reports the error."""
    if state.is_main_process:
        raise Difix3DError(sentence)
    raise SystemExit(1)


def _report(config: EnhanceConfig, outcomes: Sequence[Outcome]) -> None:
    bad = [sentence for outcome in outcomes for sentence in outcome.bad]
    for sentence in bad:
        _say(f"Skipped: {sentence}")
    count = sum(outcome.num_frames for outcome in outcomes)
    passed = f"; {len(bad)} could not be read and are missing" if bad else ""
    seconds = max(outcome.seconds for outcome in outcomes)
    speed = f" in {seconds:.1f} s ({count / seconds:.2f} frames/s)" if seconds else ""
    unchanged = any(outcome.unchanged for outcome in outcomes)
    done = "written without a change" if unchanged else "cleaned"
    _say(f"{count} frames {done}{speed}: {config.output}{passed}.")
    if unchanged:
        _say(
            "The network needs photos that are aligned by the geometry of a run, which frames lack: clean them with "
            "ns-difix render, or with another --model."
        )


def _say(sentence: str) -> None:
    """Prints a sentence as it is: rich would take `[...]` in the names of files for markup and leave it out."""
    CONSOLE.print(sentence, soft_wrap=True, markup=False)


class _FramesPerSecond(ProgressColumn):
    """Current speed in frames per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or (task.completed / task.elapsed if task.elapsed else None)
        return Text("" if speed is None else f"{speed:.2f} frames/s")


@contextmanager
def _progress(label: str, total: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Shows a bar with frames per second and the time left; yields a function that advances it by some frames."""
    columns = [TextColumn(label), BarColumn(), MofNCompleteColumn(), _FramesPerSecond(), TimeRemainingColumn()]
    with Progress(*columns, console=CONSOLE, disable=not visible, speed_estimate_period=60) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
