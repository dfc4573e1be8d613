"""Seconds until `ns-train` has printed its help, with the plugin and without.

Both use the same environment and the same start program, which hides this distribution's entry points from
`importlib.metadata` for the measurement without it. They take turns and are compared by processor time, which other
programs affect little.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

DISTRIBUTION = "difix3d-ns"
START = """
import importlib.metadata as metadata, sys
entry_points = metadata.entry_points
def visible(**wanted):
    found = entry_points(**wanted)
    if not wanted.get("group", "").startswith("nerfstudio."):
        return found
    return type(found)(each for each in found if each.dist is None or each.dist.name.replace("_", "-") != hidden)
hidden = sys.argv[1]
metadata.entry_points = visible
from nerfstudio.scripts.train import entrypoint
sys.argv = ["ns-train", *sys.argv[2:]]
entrypoint()
"""
"""A program that hides the entry points of the distribution named by its first argument and then runs `ns-train`."""


def run_help(arguments: tuple[str, ...], hidden: str = "none") -> tuple[float, float, str]:
    """Runs `ns-train`.

    Args:
        arguments: arguments of `ns-train`, such as ("difix3d", "--help").
        hidden: name of the distribution to hide.

    Returns:
        Wall-clock seconds, processor seconds, and the output.

    Raises:
        SystemExit: `ns-train` failed.
    """
    command = [sys.executable, "-c", START, hidden, *arguments]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode != 0:
        raise SystemExit(f"ns-train {' '.join(arguments)} failed:\n{done.stdout[-2000:]}")
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, work, done.stdout


def measure_startup(repeats: int) -> dict[str, Any]:
    """Seconds until `ns-train --help` and the help of single methods are printed.

    Args:
        repeats: number of timed rounds, in which the commands take turns; one more round warms up the disk's cache.

    Returns:
        For each command the least and the median seconds, and for those with a counterpart how much more processor time
        they take, as a share.

    Raises:
        SystemExit: the help lists the plugin's methods although the plugin is hidden, or lacks them although it is not.
    """
    commands = {
        "ns-train --help without the plugin": (("--help",), DISTRIBUTION),
        "ns-train --help with the plugin": (("--help",), "none"),
        "ns-train splatfacto --help with the plugin": (("splatfacto", "--help"), "none"),
        "ns-train difix3d --help": (("difix3d", "--help"), "none"),
    }
    counterparts = dict(zip(list(commands)[1::2], list(commands)[::2], strict=True))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(-1, repeats):
        for name, (arguments, hidden) in commands.items():
            seconds, work, printed = run_help(arguments, hidden)
            if arguments == ("--help",) and ("difix3d" in printed) != (hidden == "none"):
                raise SystemExit(f"{name}: the plugin is {'not ' if hidden == 'none' else ''}among the methods.")
            if number >= 0:
                times[name].append((seconds, work))
    return compare(times, counterparts)


def compare(times: dict[str, list[tuple[float, float]]], counterparts: dict[str, str]) -> dict[str, Any]:
    """The figures of `measure_startup`.

    Args:
        times: wall-clock and processor seconds of each round, by command.
        counterparts: for some commands, the command that they are compared with.
    """
    rows: dict[str, Any] = {}
    for name, rounds in times.items():
        rows[name] = {
            "seconds_min": min(seconds for seconds, _ in rounds),
            "seconds_median": statistics.median(seconds for seconds, _ in rounds),
        }
        if name in counterparts:
            pairs = list(zip(rounds, times[counterparts[name]], strict=True))
            rows[name]["more_median"] = statistics.median(own[1] / other[1] - 1 for own, other in pairs)
            least, least_other = min(own[1] for own, _ in pairs), min(other[1] for _, other in pairs)
            rows[name]["more_min"] = least / least_other - 1
    return rows
