"""`propainter.inference.shots`: which parts are inpainted by themselves, and that they are."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reusing import clip

from propainter import InputError, Pipeline, Schedule
from propainter.inference.compositing import Compositor
from propainter.inference.preparation import MIN_SIDE
from propainter.inference.shots import Shot, enclosing, hole_of, plan_shots, stream_shots
from propainter.inference.streaming import Streaming

QUICK = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=3)


def cuts_at(*cuts: int):
    return lambda frames, count: cuts


def around_the_hole(margin: int):
    def region(shots, size):
        sides = [(enclosing(s.rows, margin, size[0]), enclosing(s.columns, margin, size[1])) for s in shots]
        return [shot._replace(rows=rows, columns=columns) for shot, (rows, columns) in zip(shots, sides, strict=True)]

    return region


@st.composite
def stretches(draw):
    side = draw(st.integers(MIN_SIDE, 400))
    start = draw(st.integers(0, side - 1))
    return slice(start, draw(st.integers(start + 1, side))), draw(st.integers(0, 200)), side


@given(stretches())
def test_a_stretch_holds_hole_and_margin_inside_the_picture(given_):
    hole, margin, side = given_
    found = enclosing(hole, margin, side)
    assert 0 <= found.start <= hole.start < hole.stop <= found.stop <= side
    length = found.stop - found.start
    assert length >= MIN_SIDE
    if (found.start, found.stop) != (0, side):
        assert length % 8 == 0
    if length < side // 8 * 8:
        assert found.start <= max(0, hole.start - margin) and found.stop >= min(side, hole.stop + margin)
        assert length <= max(MIN_SIDE, hole.stop - hole.start + 2 * margin + 7)


def test_a_stretch_is_not_resampled_where_the_hole_allows_it():
    assert enclosing(slice(60, 70), 64, 134) == slice(3, 131)
    assert enclosing(slice(0, 10), 64, 134) == slice(0, 128)
    assert enclosing(slice(120, 134), 64, 134) == slice(6, 134)
    assert enclosing(slice(2, 131), 0, 134) == slice(0, 134)


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.lists(st.integers(-3, 15), max_size=4), st.integers(0, 9))
def test_shots_hold_every_hole_and_end_at_cuts(has_hole, cuts, dilation):
    rng = np.random.default_rng(len(has_hole))
    masks = np.zeros((len(has_hole), 136, 150), bool)
    for mask, some in zip(masks, has_hole, strict=True):
        row, column = rng.integers(0, (136, 150))
        mask[row : row + 9, column : column + 20] = some
    holes = [hole_of(mask) for mask in masks]
    for region in (None, around_the_hole(5)):
        shots = plan_shots(holes, (136, 150), dilation, cuts, region)
        left = masks.copy()
        for shot, after in zip(shots, [*shots[1:], None], strict=False):
            assert masks[shot.start : shot.stop].any()
            assert not any(shot.start < cut < shot.stop for cut in cuts)
            assert after is None or shot.stop <= after.start
            left[shot.start : shot.stop, shot.rows, shot.columns] = False
        assert not left.any()


def test_a_shot_that_is_all_hole_joins_its_neighbour(caplog):
    masks = np.zeros((6, 128, 128), bool)
    masks[2:4] = True
    masks[5, :5] = True
    holes = [hole_of(mask) for mask in masks]
    assert [shot[:2] for shot in plan_shots(holes, (128, 128), 4, [2, 4])] == [(0, 4), (4, 6)]
    assert "the cut at frame 2 is left out" in caplog.text
    assert [shot[:2] for shot in plan_shots(holes[2:], (128, 128), 4, [1, 2])] == [(0, 4)]


@pytest.mark.slow
def test_each_shot_is_inpainted_by_itself(narrow):
    video, masks = clip(6)
    cut = Pipeline(narrow, QUICK, scene_detector=cuts_at(2, 5, 6))(video, masks)
    alone = Pipeline(narrow, QUICK)
    assert np.array_equal(cut[:2], alone(video[:2], masks[:2]))
    assert np.array_equal(cut[2:5], alone(video[2:5], masks[2:5]))
    assert np.array_equal(cut[5:], alone(video[[5, 5]], masks[[5, 5]])[:1])
    assert not np.array_equal(alone(video, masks)[:2], cut[:2])


def test_a_shot_without_a_hole_is_not_inpainted(narrow):
    video, masks = clip(6, hole=range(2))
    asked = []

    def splitter(inpaint, part):
        asked.append(len(part.frames))
        return inpaint(part)

    result = Pipeline(narrow, QUICK, scene_detector=cuts_at(3), clip_splitter=splitter)(video, masks)
    assert asked == [3]
    assert np.array_equal(result[3:], video[3:])


def test_float_frames_stay_float(narrow):
    """As the published evaluation has them: region and scenes paste, and nothing is rounded; nor at odd sizes."""
    video, masks = clip(4, 150, 300)
    pipeline = Pipeline(narrow, QUICK, region=around_the_hole(8), compositor=partial(Compositor, dtype=np.float32))
    exact = pipeline(video, masks)
    where = slice(None), slice(0, 128), slice(1, 129)
    assert exact.dtype == np.float32 and (exact % 1).any()
    whole = Pipeline(narrow, QUICK, compositor=pipeline.compositor)(video[where], masks[where])
    assert np.array_equal(exact[where], whole)
    odd = Pipeline(narrow, QUICK, compositor=pipeline.compositor)(video[:2, :131, :133], masks[:2, :131, :133])
    assert odd.dtype == np.float32 and odd.shape == (2, 131, 133, 3) and 0 <= odd.min() < odd.max() <= 255


@pytest.mark.slow
def test_a_region_of_the_whole_frame_is_the_published_output(narrow):
    video, masks = clip(4)
    expected = Pipeline(narrow, QUICK)(video, masks)
    assert np.array_equal(Pipeline(narrow, QUICK, region=around_the_hole(500))(video, masks), expected)


@pytest.mark.slow
def test_a_region_is_inpainted_as_a_clip_of_its_own(narrow):
    video, masks = clip(4, 150, 300)
    result = Pipeline(narrow, QUICK, region=around_the_hole(8))(video, masks)
    where = slice(None), slice(0, 128), slice(1, 129)
    expected = video.copy()
    expected[where] = Pipeline(narrow, QUICK)(video[where], masks[where])
    assert np.array_equal(result, expected)


def test_outpainting_has_no_region(narrow):
    video, masks = clip(3)
    with pytest.raises(InputError, match="give region=frame"):
        Pipeline(narrow, QUICK, region=around_the_hole(8))(video, masks, masks)


def test_flow_masks_are_cut_too(narrow):
    video, masks = clip(5)
    flow_masks = np.roll(masks, 4, axis=1) | masks
    result = Pipeline(narrow, QUICK, scene_detector=cuts_at(3))(video, masks, flow_masks)
    assert np.array_equal(result[3:], Pipeline(narrow, QUICK)(video[3:], masks[3:], flow_masks[3:]))


@pytest.mark.slow
@pytest.mark.parametrize("region", [None, around_the_hole(8)])
def test_streamed_shots_are_the_same(narrow, region):
    video, masks = clip(9, 144, 160, hole=range(1, 7))
    pipeline = Pipeline(narrow, QUICK, scene_detector=cuts_at(1, 2, 5, 7), region=region)
    expected = pipeline(video, masks)
    holes = [hole_of(mask) for mask in masks]
    shots = pipeline.plan_shots(video, holes, video.shape[1:3], has_flow_masks=False)
    assert [shot[:2] for shot in shots] == [(1, 2), (2, 5), (5, 7)]
    run = partial(Streaming({}).frames, pipeline)
    frames = list(stream_shots(run, shots, 9, (144, 160), zip(video, masks, [None] * 9, strict=True)))
    assert np.array_equal(frames, expected)


def test_streamed_shots_leave_out_what_is_finished():
    video, masks = clip(9, 128, 160)
    shots = [Shot(*frames, slice(0, 128), slice(8, 136)) for frames in [(1, 2), (2, 5), (6, 8)]]

    def streamed(skip: int) -> list[np.ndarray]:
        left = iter([shot for shot in shots if shot.stop > skip])

        def inverted(count, size, parts):
            for frame, _, _ in islice(parts, max(0, skip - next(left).start), None):
                yield 255 - frame

        return list(stream_shots(inverted, shots, 9, (128, 160), zip(video, masks, [None] * 9, strict=True), skip))

    expected = video.copy()
    for shot in shots:
        where = slice(shot.start, shot.stop), shot.rows, shot.columns
        expected[where] = 255 - expected[where]
    for skip in range(10):
        assert np.array_equal(np.reshape(streamed(skip), (-1, *video.shape[1:])), expected[skip:])


@settings(max_examples=20)
@given(st.integers(0, 5))
def test_too_few_streamed_parts_are_refused(there):
    def same(count, size, parts):
        yield from (frame for frame, _, _ in parts)

    video, masks = clip(there + 1)
    parts = zip(video[:there], masks, [None] * there, strict=False)
    shots = [Shot(2, 3, slice(0, 128), slice(0, 136))]
    with pytest.raises(InputError, match=f"ends after {there} frames"):
        list(stream_shots(same, shots, 6, (128, 136), parts))
