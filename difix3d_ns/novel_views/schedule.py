"""At which training steps novel views are fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence


def fix_steps_of_run(
    fix_steps: Sequence[int],
    fix_every: int,
    num_iterations: int,
    planned_num_iterations: int,
) -> tuple[int, ...]:
    """The steps of one run before which novel views are fixed.

    A list and a period may be given together; their union counts. A run shorter than planned keeps its fixes: all
    steps shrink in proportion, so that a quick trial shows what the full run does.

    Args:
        fix_steps: fixed steps of the planned run.
        fix_every: a period in steps of the planned run; 0 for none.
        num_iterations: steps that this run takes in all.
        planned_num_iterations: steps that `fix_steps` and `fix_every` are made for; 0 to take them as they are.

    Returns:
        Ascending steps, each once, all within the run and after its first step.

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
    steps: Sequence[int],
    num_fixes_to_arrive: int,
    step_length_to_arrive: float,
    early_steps: Sequence[int] = (),
) -> str:
    """What is told before training: when novel views are fixed, and what to set if they do not arrive.

    Args:
        num_views: number of novel views.
        steps: the run's fix steps.
        num_fixes_to_arrive: fixes that the farthest view needs.
        step_length_to_arrive: `step_length` with which these fixes are enough.
        early_steps: steps at which only a network that proves reliable fixes.
    """
    if not steps:
        return "No fix of novel views falls into this run: see --pipeline.fix-steps and --pipeline.fix-every."
    fixes = f"{len(steps)} fix{'es' if len(steps) > 1 else ''}"
    told = f"{num_views} novel views are fixed before steps {_listed(steps)} ({fixes}; "
    told += f"they reach their targets after {num_fixes_to_arrive})."
    if num_fixes_to_arrive > len(steps):
        step_length = math.ceil(step_length_to_arrive * 100) / 100
        told += (
            f" That is too few to arrive: lengthen the steps by --pipeline.step-length {step_length:g}, or fix "
            "more often by --pipeline.fix-every or more --pipeline.fix-steps."
        )
    if early_steps:
        told += f" If the network proves reliable at photos, also before steps {_listed(early_steps)}."
    return told


def _listed(steps: Sequence[int]) -> str:
    """The first of them."""
    return ", ".join(map(str, steps[:6])) + (", ..." if len(steps) > 6 else "")
