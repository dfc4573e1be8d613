"""Cleans all frames of an input. Processes that `accelerate launch` started share the work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.given_settings import require_used_difix
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.frames.cleaning import Outcome, Unit, Work, clean_share, offering_resume
from difix3d_ns.frames.destinations import open_sink
from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.given_references import find_references
from difix3d_ns.frames.losses import losses
from difix3d_ns.frames.sources import Source, open_source
from difix3d_ns.printing import say

if TYPE_CHECKING:
    from accelerate import PartialState

LONGEST_WAIT = timedelta(days=365)
"""How long a finished process waits for the others. PyTorch's default of some minutes is too short."""


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
        outcomes: list[Outcome] = gather_object([clean_share(work, units, state)])
        for sentence in (outcome.error for outcome in outcomes if outcome.error):
            _end(sentence, state)
        if state.is_main_process and units is not None:
            with offering_resume():
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
            say(f"All frames are already in {config.output}.")
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
    say(f"Cleaning {total} frames of {work.config.input} into {work.config.output}{processes}{earlier}.")
    for sentence in losses(work.config, work.source, work.sink):
        say(sentence)
    say(f"Difix: {work.fixer.resolve().reason}")
    if work.config.previous_frame_as_reference:
        first = f" The first frame uses {work.references.photos[0]}." if work.references.how else ""
        say(f"References: the previous cleaned frame, so frames are cleaned one by one.{first}")
    elif work.references.how:
        say(f"References: {work.references.how}")


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


def _end(sentence: str, state: PartialState) -> None:
    """Ends this process; only the main process reports the error."""
    if state.is_main_process:
        raise Difix3DError(sentence)
    raise SystemExit(1)


def _report(config: EnhanceConfig, outcomes: Sequence[Outcome]) -> None:
    bad = [sentence for outcome in outcomes for sentence in outcome.bad]
    for sentence in bad:
        say(f"Skipped: {sentence}")
    count = sum(outcome.num_frames for outcome in outcomes)
    passed = f"; {len(bad)} could not be read and are missing" if bad else ""
    seconds = max(outcome.seconds for outcome in outcomes)
    speed = f" in {seconds:.1f} s ({count / seconds:.2f} frames/s)" if seconds else ""
    unchanged = any(outcome.unchanged for outcome in outcomes)
    done = "written without a change" if unchanged else "cleaned"
    say(f"{count} frames {done}{speed}: {config.output}{passed}.")
    if unchanged:
        say(
            "The network needs photos that are aligned by the geometry of a run, which frames lack: clean them with "
            "ns-difix render, or with another --model."
        )
