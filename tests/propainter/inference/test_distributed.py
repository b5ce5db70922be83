"""How work is shared out among processes."""

from hypothesis import given
from hypothesis import strategies as st

from propainter.inference.distributed import share, share_pairs
from propainter.schedule import plan_clips


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
