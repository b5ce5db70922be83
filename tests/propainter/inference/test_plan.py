"""The plan of a streaming run: the published steps, and none of them before it is certain."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propainter import Schedule, plan_windows
from propainter.inference.plan import Plan
from propainter.schedule import FLOW_PADDING, PIXEL_PADDING, plan_subvideos

schedules = st.builds(
    Schedule,
    neighbor_length=st.integers(2, 12),
    ref_stride=st.integers(1, 12),
    subvideo_length=st.integers(1, 40),
)


class Reader:
    """A video of `count` frames, and how many of them were asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __call__(self, stop: int) -> int:
        self.read = max(self.read, min(stop, self.count))
        return self.read


def plan_of(schedule: Schedule, count: int, known: bool = True) -> Plan:
    return Plan(schedule, count if known else None, Reader(count))


def all_windows(schedule: Schedule, count: int):
    return plan_windows(count, schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)


@pytest.mark.parametrize("known", [True, False])
@given(schedule=schedules, count=st.integers(2, 120))
def test_steps_are_the_published_ones(known, schedule, count):
    plan, windows = plan_of(schedule, count, known), all_windows(schedule, count)
    for number, window in enumerate([*windows, None]):
        assert plan.window(number) == window
    plan, length = plan_of(schedule, count, known), schedule.subvideo_length
    for number, part in enumerate(plan_subvideos(count - 1, length, FLOW_PADDING)):
        assert plan.completion(number) == part
        assert plan.completion_start(number) == part.start
    plan = plan_of(schedule, count, known)
    for number, part in enumerate(plan_subvideos(count, length, PIXEL_PADDING)):
        assert plan.propagation(number) == part
        assert plan.propagation_start(number) == part.start
    assert (plan.windows(count), plan.propagations(count)) == (len(windows), number + 1)


@pytest.mark.parametrize("known", [True, False])
@given(schedule=schedules, count=st.integers(2, 120), most=st.integers(1, 5))
def test_a_group_needs_one_more_subvideo_and_reads_nothing_before_its_first_frame(known, schedule, count, most):
    plan, windows = plan_of(schedule, count, known), all_windows(schedule, count)
    number = needed = 0
    while group := plan.group(number, needed, most):
        assert group == windows[number : number + len(group)]
        assert len(group) <= most
        later = windows[number:]
        assert plan.first_frame(number) == min(min(window.frames) for window in later)
        assert plan.first_local(number) == min(min(window.local) for window in later)
        needs = list(accumulate((max(window.frames) + 1 for window in group), max, initial=needed))
        assert len({plan.propagations(frames) for frames in needs[1:]}) == 1
        number, needed = number + len(group), needs[-1]
        full = len(group) == most or number == len(windows)
        assert full or plan.propagations(max(windows[number].frames) + 1) > plan.propagations(needed)
    assert number == len(windows)
    assert plan.first_frame(number) == plan.first_local(number) == plan.count == count
    assert plan.completion_start(plan.completions(count)) == plan.propagation_start(plan.propagations(count)) == count


@settings(max_examples=10)
@given(schedules, st.integers(0, 30))
def test_windows_to_come_are_those_of_a_video_without_end(schedule, first):
    plan = plan_of(schedule, 2000, known=False)
    coming = plan.coming(first)
    assert coming == all_windows(schedule, 2000)[first : first + len(coming)]
    assert len(coming) == 200
