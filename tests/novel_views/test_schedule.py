"""Steps at which novel views are fixed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difix3d_ns.novel_views.schedule import describe_fixes, fix_steps_of_run


def test_a_list_and_a_period_are_united() -> None:
    assert fix_steps_of_run((300, 100), 250, 1000, 1000) == (100, 250, 300, 500, 750)


def test_a_shorter_run_keeps_its_fixes_in_proportion() -> None:
    assert fix_steps_of_run((3000, 6000, 28_000), 0, 3000, 30_000) == (300, 600, 2800)


def test_a_longer_run_does_not_stretch_them() -> None:
    assert fix_steps_of_run((3000, 40_000), 0, 60_000, 30_000) == (3000, 40_000)


def test_a_plan_of_zero_takes_the_steps_as_they_are() -> None:
    assert fix_steps_of_run((30, 3000), 0, 100, 0) == (30,)


@given(
    st.lists(st.integers(0, 100_000), max_size=20), st.integers(0, 5000), st.integers(0, 9000), st.integers(0, 30_000)
)
def test_steps_ascend_inside_the_run(steps: list[int], every: int, num_iterations: int, planned: int) -> None:
    found = fix_steps_of_run(steps, every and max(every, 50), num_iterations, planned)
    assert list(found) == sorted(set(found))
    assert all(0 < step < num_iterations for step in found)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        fix_steps_of_run((-1,), 0, 100, 100)


def test_a_walk_that_arrives_is_announced_plainly() -> None:
    told = describe_fixes(5, (400, 550, 700), 3, 0.4)
    assert told == ("5 novel views are fixed before steps 400, 550, 700 (3 fixes; they reach their targets after 3).")


def test_too_few_fixes_to_arrive_are_told_with_a_step_length_that_does() -> None:
    told = describe_fixes(5, range(100, 900, 100), 20, 0.4011)
    assert "100, 200, 300, 400, 500, 600, ... (8 fixes; they reach their targets after 20)" in told
    assert "too few to arrive: lengthen the steps by --pipeline.step-length 0.41" in told


def test_fixes_that_only_a_reliable_network_makes_are_told() -> None:
    told = describe_fixes(5, (400, 550, 700), 3, 0.4, (80, 160))
    assert told.startswith(describe_fixes(5, (400, 550, 700), 3, 0.4))
    assert told.endswith(" If the network proves reliable at photos, also before steps 80, 160.")


def test_a_run_without_fixes_is_told() -> None:
    assert "--pipeline.fix-every" in describe_fixes(5, (), 3, 0.4)
