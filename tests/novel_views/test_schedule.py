"""The training steps at which novel views are fixed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difix3d_ns.novel_views.schedule import FixSchedule, describe_fixes, fix_steps_of_run


def test_a_list_and_a_period_are_combined() -> None:
    assert fix_steps_of_run((300, 100), 250, 1000, 1000) == (100, 250, 300, 500, 750)


def test_a_shorter_run_keeps_its_fixes_in_proportion() -> None:
    assert fix_steps_of_run((3000, 6000, 28_000), 0, 3000, 30_000) == (300, 600, 2800)


def test_a_longer_run_does_not_scale_the_steps() -> None:
    assert fix_steps_of_run((3000, 40_000), 0, 60_000, 30_000) == (3000, 40_000)


def test_a_planned_length_of_zero_never_scales_the_steps() -> None:
    assert fix_steps_of_run((30, 3000), 0, 100, 0) == (30,)


@given(
    st.lists(st.integers(0, 100_000), max_size=20), st.integers(0, 5000), st.integers(0, 9000), st.integers(0, 30_000)
)
def test_steps_are_ascending_and_inside_the_run(
    steps: list[int], every: int, num_iterations: int, planned: int
) -> None:
    found = fix_steps_of_run(steps, every and max(every, 50), num_iterations, planned)
    assert list(found) == sorted(set(found))
    assert all(0 < step < num_iterations for step in found)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        fix_steps_of_run((-1,), 0, 100, 100)


NONE = frozenset[int]()


def test_a_walk_that_arrives_is_announced() -> None:
    text = describe_fixes(5, FixSchedule((400, 550, 700), NONE), 3, 0.4)
    assert text == ("5 novel views are fixed before steps 400, 550, 700 (3 fixes; they reach their targets after 3).")


def test_if_the_fixes_are_too_few_to_arrive_a_long_enough_step_length_is_printed() -> None:
    text = describe_fixes(5, FixSchedule(tuple(range(100, 900, 100)), NONE), 20, 0.4011)
    assert "100, 200, 300, 400, 500, 600, ... (8 fixes; they reach their targets after 20)" in text
    assert "too few to arrive: lengthen the steps with --pipeline.step-length 0.41" in text


def test_early_fixes_are_announced_with_their_condition() -> None:
    text = describe_fixes(5, FixSchedule((400, 550, 700), frozenset({80, 160})), 3, 0.4)
    assert text.startswith(describe_fixes(5, FixSchedule((400, 550, 700), NONE), 3, 0.4))
    assert text.endswith(" If the network proves reliable at photos, also before steps 80, 160.")


def test_one_view_and_one_step_are_announced_in_the_singular() -> None:
    text = describe_fixes(1, FixSchedule((400,), frozenset({80})), 1, 0.4, few_photos=True)
    assert text.startswith("1 novel view is fixed before step 400 (1 fix; it reaches its target after 1")
    assert "Before step 80 it is also rendered and kept, and fixed once" in text
    assert text.count("step ") == 2 and "steps" not in text


def test_a_run_without_fixes_is_announced() -> None:
    assert "--pipeline.fix-every" in describe_fixes(5, FixSchedule((), NONE), 3, 0.4)


def test_a_resumed_run_does_not_repeat_earlier_fixes() -> None:
    schedule = FixSchedule((400, 550, 700), frozenset({80, 450}), first_step=450)
    assert schedule.steps == (450, 550, 700)


def test_with_few_photos_early_fixes_count_as_steps_towards_the_targets() -> None:
    schedule = FixSchedule((400, 550), frozenset({80, 160, 240}))
    text = describe_fixes(5, schedule, 4, 0.4, few_photos=True)
    assert "they reach their targets after 4, early ones included" in text and "too few" not in text
    assert "too few to arrive" in describe_fixes(5, schedule, 6, 0.4, few_photos=True)
    assert "too few to arrive" in describe_fixes(5, schedule, 4, 0.4)


@pytest.mark.parametrize("few_photos", [False, True])
def test_a_run_with_early_fixes_only_says_when_they_are(few_photos: bool) -> None:
    text = describe_fixes(5, FixSchedule((), frozenset({80, 160})), 4, 0.4, few_photos)
    assert "No fix" not in text and "5 novel views are" in text and "before steps 80, 160" in text.replace("B", "b")
