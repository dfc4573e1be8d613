"""The training steps at which novel views are fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FixSchedule:
    """The training steps of one run before which novel views are fixed."""

    certain: tuple[int, ...]
    """Steps of the fixes that are always made, ascending."""
    early: frozenset[int]
    """Steps of early fixes, which are made only if the network is reliable."""
    first_step: int = 0
    """First step of the run. A resumed run does not repeat the fixes before it."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The fix steps from the first step of the run on, ascending."""
        return tuple(sorted(step for step in {*self.certain, *self.early} if step >= self.first_step))

    def num_moves(self, few_photos: bool) -> int:
        """Number of fixes that move the novel views for certain: with few photos, early ones do too."""
        return len([step for step in self.steps if few_photos or step not in self.early])


def fix_steps_of_run(
    fix_steps: Sequence[int],
    fix_every: int,
    num_iterations: int,
    planned_num_iterations: int,
) -> tuple[int, ...]:
    """The steps of one run before which novel views are fixed.

    The list and the period can be combined. In a run shorter than planned all steps shrink in proportion, so a quick
    trial has as many fixes as the full run.

    Args:
        fix_steps: fix steps of the planned run.
        fix_every: a period in steps of the planned run; 0 for none.
        num_iterations: number of steps in this run.
        planned_num_iterations: length of the run that `fix_steps` and `fix_every` are planned for; 0 never scales them.

    Returns:
        Ascending steps without duplicates, all after the first step of the run and before its end.

    Raises:
        ValueError: a step, the period or a number of iterations is negative.
    """
    if min([fix_every, num_iterations, planned_num_iterations, *fix_steps]) < 0:
        raise ValueError("fix_steps, fix_every and the numbers of iterations must not be negative")
    planned = planned_num_iterations or num_iterations
    scale = min(1.0, num_iterations / planned) if planned else 1.0
    horizon = max(planned, num_iterations)
    periodic = range(fix_every, horizon, fix_every) if fix_every else ()
    steps = {round(step * scale) for step in (*fix_steps, *periodic)}
    return tuple(sorted(step for step in steps if 0 < step < num_iterations))


def describe_fixes(
    num_views: int,
    schedule: FixSchedule,
    num_fixes_to_arrive: int,
    step_length_to_arrive: float,
    few_photos: bool = False,
) -> str:
    """The text printed before training: when novel views are fixed, and what to set if they do not arrive.

    Args:
        num_views: number of novel views.
        schedule: the run's fixes.
        num_fixes_to_arrive: fixes that the farthest view needs to reach its target.
        step_length_to_arrive: `step_length` with which it arrives within the fixes that move views for certain.
        few_photos: whether views are kept as rendered at early steps if the network is not reliable.
    """
    if not schedule.steps:
        return "No fix of novel views falls into this run: see --pipeline.fix-steps and --pipeline.fix-every."
    certain = [step for step in schedule.steps if step not in schedule.early]
    early = [step for step in schedule.steps if step in schedule.early]
    parts: list[str] = []
    who = "1 novel view is" if num_views == 1 else f"{num_views} novel views are"
    they, their = ("it reaches", "its target") if num_views == 1 else ("they reach", "their targets")
    if certain:
        fixes = f"{len(certain)} fix{'es' if len(certain) > 1 else ''}"
        counted = ", early ones included" if early and few_photos else ""
        parts.append(
            f"{who} fixed before {_listed(certain)} ({fixes}; {they} {their} after {num_fixes_to_arrive}{counted})."
        )
    if certain and num_fixes_to_arrive > schedule.num_moves(few_photos):
        step_length = math.ceil(step_length_to_arrive * 100) / 100
        parts.append(
            f"That is too few to arrive: lengthen the steps with --pipeline.step-length {step_length:g}, or fix "
            "more often with --pipeline.fix-every or more --pipeline.fix-steps."
        )
    if early and few_photos:
        steps = _listed(early)
        also = f"Before {steps} {'it is' if num_views == 1 else 'they are'} also rendered and kept"
        only = f"{who} rendered and kept before {steps}"
        parts.append(f"{also if certain else only}, and fixed once the network proves reliable at photos.")
    elif early:
        also = "also" if certain else f"{who} fixed"
        parts.append(f"If the network proves reliable at photos, {also} before {_listed(early)}.")
    return " ".join(parts)


def _listed(steps: Sequence[int]) -> str:
    """The first steps, such as "step 80" or "steps 80, 160"."""
    first = ", ".join(map(str, steps[:6])) + (", ..." if len(steps) > 6 else "")
    return f"step{'s' if len(steps) > 1 else ''} {first}"
