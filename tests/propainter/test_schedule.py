"""The published schedule: windows, sub-videos and clips cover every frame once, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propainter import InputError, Schedule, plan_windows
from propainter.schedule import clip_length, plan_clips, plan_subvideos


def test_windows_are_the_published(golden):
    for key, expected in golden.json("windows").items():
        windows = plan_windows(*map(int, key.split(",")))
        assert [[window.local, window.references] for window in windows] == expected, key


@given(
    num_frames=st.integers(2, 300),
    neighbor_length=st.integers(2, 30),
    ref_stride=st.integers(1, 30),
    subvideo_length=st.integers(1, 120),
)
def test_windows_cover_all_frames_and_their_flows(num_frames, neighbor_length, ref_stride, subvideo_length):
    windows = plan_windows(num_frames, neighbor_length, ref_stride, subvideo_length)
    assert {t for window in windows for t in window.local} == set(range(num_frames))
    for window in windows:
        assert window.local == list(range(window.local[0], window.local[-1] + 1))
        assert len(window.local) >= 2
        assert sorted(set(window.references)) == window.references
        assert not set(window.references) & set(window.local)
        assert all(0 <= t < num_frames for t in window.references)


@given(length=st.integers(1, 400), subvideo_length=st.integers(1, 120), padding=st.integers(0, 12))
def test_subvideos_keep_every_entry_once(length, subvideo_length, padding):
    kept = []
    for start, stop, keep in plan_subvideos(length, subvideo_length, padding):
        assert 0 <= start < stop <= length
        kept += list(range(start, stop))[keep]
    assert kept == list(range(length))


def test_a_short_video_is_one_subvideo():
    assert plan_subvideos(80, 80, 10) == [(0, 80, slice(0, 80))]
    assert plan_subvideos(81, 80, 10) == [(0, 81, slice(0, 80)), (70, 81, slice(10, 11))]


@given(num_frames=st.integers(2, 200), length=st.integers(1, 20))
def test_clips_give_every_pair_once(num_frames, length):
    pairs = [t for start, stop in plan_clips(num_frames, length) for t in range(start, stop - 1)]
    assert pairs == list(range(num_frames - 1))


@pytest.mark.parametrize(
    ("width", "length"), [(128, 12), (640, 12), (648, 8), (720, 8), (728, 4), (1280, 4), (1288, 2)]
)
def test_clip_length_by_width(width, length):
    assert clip_length(width) == length


@pytest.mark.parametrize(
    ("name", "value"),
    [("raft_iterations", 0), ("neighbor_length", 1), ("ref_stride", -3), ("subvideo_length", 0), ("mask_dilation", -1)]
    + [("ref_stride", 2.5), ("raft_iterations", True), ("raft_iterations", "many")],
)
def test_impossible_schedules_are_refused(name, value):
    with pytest.raises(InputError, match=f"schedule.{name} is {value!r}"):
        Schedule(**{name: value})
