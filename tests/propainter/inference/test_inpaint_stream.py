"""Frames in, frames out: `inpaint_stream` over lists, generators and cameras."""

import gc
import weakref
from itertools import islice, repeat

import numpy as np
import pytest
from support.clips import clip

from propainter import InputError, inpaint, inpaint_stream
from propainter.inference import pipeline as pipeline_module
from propainter.inference import streaming_run

SHORT = {"raft_iterations": 1, "neighbor_length": 4, "ref_stride": 2, "subvideo_length": 6}


def camera(read: list, frames, last=None):
    """Yield frames from one buffer, as a camera does."""
    buffer = np.empty_like(frames[0])
    for number in range(last or 10**9):
        buffer[...] = frames[number % len(frames)]
        read.append(number)
        yield buffer


@pytest.fixture
def quick(monkeypatch, networks):
    """The networks' place taken by copies of the input: only frames and masks are looked at."""
    from support.fake_stages import features_of_everything, pair_flow, predict_from_everything

    def fast(*given, **options):
        made = pipeline_class(*given, **options)
        made.flow_estimator, made.feature_provider = pair_flow, features_of_everything
        made.predictor = predict_from_everything
        return made

    pipeline_class = pipeline_module.Pipeline
    monkeypatch.setattr("propainter.inference.inpaint_stream.Pipeline", fast)
    monkeypatch.setattr("propainter.inference.pipeline.Pipeline", fast)
    for module in (streaming_run, pipeline_module):
        monkeypatch.setattr(module, "complete_flow", lambda network, flows, *given: flows)
    return networks


@pytest.mark.slow
def test_the_example_of_the_documentation(networks):
    video, masks = clip(2, 128, 128)
    frames, mask = (frame for frame in video), masks[0]
    done = []
    for frame in inpaint_stream(networks, frames, mask, raft_iterations=1):
        done.append(frame)
    expected = inpaint(networks, video, mask, raft_iterations=1)
    assert np.abs(np.array(done).astype(int) - expected).max() <= 1
    assert len(done) == 2


@pytest.mark.parametrize("count", [2, 3, 30])
@pytest.mark.parametrize("one_mask", [True, False])
def test_gives_what_inpaint_gives(quick, count, one_mask):
    video, masks = clip(count, 128, 128)
    masks = masks[0] if one_mask else masks
    expected = inpaint(quick, video, masks, **SHORT)
    for frames in (list(video), camera([], video, count)):
        given = masks if one_mask else iter(masks)
        assert np.array_equal(list(inpaint_stream(quick, frames, given, **SHORT)), expected)


def test_pixels_outside_the_hole_stay_where_a_side_is_no_multiple_of_8(quick):
    video, masks = clip(12, 130, 139)
    result = np.array(list(inpaint_stream(quick, iter(video), masks, mask_dilation=0, **SHORT)))
    assert result.shape == video.shape
    assert np.array_equal(result[masks == 0], video[masks == 0])
    resized = inpaint(quick, video, masks, mask_dilation=0, **SHORT)
    assert np.array_equal(result[masks != 0], resized[masks != 0])


def test_a_camera_without_end_is_read_a_bounded_way_ahead(quick):
    video, masks = clip(40, 128, 128)
    read: list[int] = []
    images = inpaint_stream(quick, camera(read, video), masks[0], **SHORT)
    for number, _ in enumerate(islice(images, 60)):
        assert len(read) - number < 40
    images.close()
    assert len(read) < 100


def test_closing_frees_everything(quick):
    video, masks = clip(40, 128, 128)
    held = []

    def frames():
        for frame in camera([], video):
            held.append(weakref.ref(frame))
            yield frame

    source = frames()
    images = inpaint_stream(quick, source, masks[0], **SHORT)
    next(images)
    images.close()
    reference = weakref.ref(source)
    del source, images
    gc.collect()
    assert reference() is None
    assert all(frame() is None for frame in held)
    gc.collect()


def test_progress_is_told(quick):
    steps = []
    video, masks = clip(12, 128, 128)
    list(inpaint_stream(quick, iter(video), masks[0], progress=lambda *step: steps.append(step), **SHORT))
    assert steps[-1] == ("generation", 6, 6)
    assert ("flow", 12, 12) in steps


BLANK, HOLE = np.zeros((128, 136, 3), np.uint8), np.eye(128, 136)


@pytest.mark.parametrize(
    ("frames", "masks", "named"),
    [
        ([], HOLE, "there are no frames"),
        ([BLANK], HOLE, r"the clip has 1 frame\(s\); give at least 2"),
        (
            [BLANK, BLANK[:, :128]],
            HOLE,
            r"frame 1 is uint8 \[128, 128, 3\]; give uint8 RGB \[H, W, 3\], all of one size",
        ),
        ([BLANK / 2], HOLE, r"frame 0 is float64"),
        ([BLANK[..., 0]], HOLE, r"frame 0 is uint8 \[128, 136\]"),
        (["frame.png"], HOLE, r"frame 0 is str; give uint8 RGB"),
        ([BLANK[:64]] * 2, HOLE[:64], "frames are 64x136; give at least 128x128"),
        ([BLANK] * 3, [HOLE] * 2, r"frame 2 has no mask; give one mask for each frame, or one \[H, W\] for all"),
        ([BLANK] * 3, [HOLE[:, :128]] * 3, r"mask 0 is \[128, 128\]; give \[128, 136\]"),
        ([BLANK] * 3, HOLE[:100], r"mask 0 is \[100, 136\]"),
        ([BLANK] * 3, np.ones((128, 136)), "the mask covers every pixel"),
    ],
)
def test_wrong_input_is_one_sentence(quick, frames, masks, named):
    with pytest.raises(InputError, match=named):
        list(inpaint_stream(quick, iter(frames), masks))


def test_a_wrong_number_of_the_schedule_is_refused_at_once(networks):
    with pytest.raises(InputError, match=r"schedule\.ref_stride is 0"):
        inpaint_stream(networks, repeat(BLANK), HOLE, ref_stride=0)
