"""`ns-difix check`, which prints what this machine can do and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CheckCommand:
    """Prints what this machine can do: torch, driver, GPU, nvcc, gsplat's kernels, networks and ffmpeg.

    For each gap it prints the remedy. The exit code is 0 if difix3d can train on a GPU here, otherwise 1, also on a
    machine without a GPU, on which difix3d-mini trains.
    """


def check(_: CheckCommand) -> None:
    """Prints the facts.

    Raises:
        SystemExit: with code 1 if `difix3d` cannot train on a GPU here.
    """
    # Imported here because it loads torch when it runs, which --help does not need.
    from difix3d_ns.machine.facts import facts, ffmpeg_fact, network_facts, print_facts, read_machine

    machine = read_machine()
    rows = [*facts(machine), *network_facts("cuda" if machine.torch.usable else "cpu"), ffmpeg_fact()]
    print_facts(rows, machine.verdict)
    if not machine.trains_on_gpu:
        raise SystemExit(1)
