"""How work is shared out among processes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from propainter.inference.compositing import Compositor
from propainter.inference.distributed import FrameDelivery, most_speedups, share, share_pairs
from propainter.schedule import Schedule, plan_clips, plan_windows


@given(st.integers(0, 200), st.integers(1, 9))
def test_each_unit_is_one_processs_and_shares_differ_by_one_at_most(count, parts):
    shares = share(count, parts)
    assert len(shares) == parts
    assert [unit for part in shares for unit in part] == list(range(count))
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


@given(st.integers(2, 200), st.integers(2, 12), st.integers(1, 9))
def test_pairs_are_cut_at_the_edges_of_clips_where_these_are_enough(num_frames, length, parts):
    shares = share_pairs(num_frames, length, parts)
    assert [pair for part in shares for pair in part] == list(range(num_frames - 1))
    clips = list(plan_clips(num_frames, length))
    if len(clips) >= parts:
        assert {part.start for part in shares if part} <= {start for start, _ in clips}


@given(st.integers(2, 40), st.integers(2, 12))
def test_frames_are_handed_on_once_they_are_final(num_frames, neighbor_length):
    """Each once, in order, as the whole result has them, and as soon as no later window fills them."""
    windows = plan_windows(num_frames, neighbor_length)
    masks = np.ones((num_frames, 8, 8), np.uint8)
    compositor, given = Compositor(np.zeros((num_frames, 8, 8, 3), np.uint8), masks), []
    delivery = FrameDelivery(compositor, windows, (8, 8), lambda images: given.extend(images.copy()))
    for done, window in enumerate(windows, 1):
        compositor.add(window.local, torch.full((len(window.local), 3, 8, 8), done / 100))
        delivery.after(done)
        to_come = {number for later in windows[done:] for number in later.local}
        assert len(given) == min(to_come, default=num_frames)
    assert np.array_equal(given, compositor.result())


class TestMostSpeedups:
    """What units allow, whatever the devices are."""

    def test_one_device_gains_nothing(self):
        assert set(most_speedups(80, (240, 432), Schedule(), 1).values()) == {1.0}

    def test_it_is_the_largest_share_that_limits(self):
        found = most_speedups(80, (240, 432), Schedule(), 4)
        # 7 clips of RAFT (12 frames and fewer), 2 directions of one sub-video, 16 windows.
        assert found == {"flow": 79 / 24, "completion": 2.0, "propagation": 1.0, "generation": 4.0}

    @given(st.integers(2, 300), st.integers(1, 16))
    def test_nothing_gains_more_than_the_number_of_devices(self, num_frames, parts):
        found = most_speedups(num_frames, (240, 432), Schedule(), parts)
        assert all(1 <= gain <= parts for gain in found.values())
