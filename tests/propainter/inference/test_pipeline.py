"""The pipeline: its golden data and its invariants."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.clips import clip

from propainter import STAGES, Observer, Pipeline, Schedule, inpaint
from propainter.inference.preparation import prepare_masks

QUICK = Schedule(raft_iterations=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("pipeline_short", dict(neighbor_length=6, ref_stride=4)),
        ("pipeline_long", dict(neighbor_length=6, ref_stride=2, subvideo_length=8)),
    ],
)
def test_golden(networks, golden, name, schedule):
    data = golden.arrays(name)
    masks, hole = data["masks"], data["dilated_masks"] > 0
    frames = golden.frames(name, len(masks))
    output = inpaint(networks, frames, masks, raft_iterations=6, **schedule)
    assert np.array_equal(output[~hole], frames[~hole])
    error = output[hole].astype(float) - data["output_in_hole"]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 60


def test_outside_the_hole_nothing_changes(result):
    video, masks = clip()
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    assert np.array_equal(result[~hole], video[~hole])
    assert (result[hole] != video[hole]).mean() > 0.9


@pytest.mark.slow
def test_what_the_hole_hides_does_not_matter(networks):
    """Frames enter the flow as they are, so only with the flow held fixed must hidden pixels be without effect."""
    video, masks = clip()
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    other = video.copy()
    other[hole] = 255 - other[hole]
    still = torch.zeros(1, len(video) - 1, 2, *video.shape[1:3])
    results = [
        Pipeline(networks, QUICK, flow_estimator=lambda frames, report: (still, still))(frames, masks)
        for frames in (video, other)
    ]
    assert np.array_equal(results[0][hole], results[1][hole])


@pytest.mark.slow
def test_one_mask_stands_for_all_frames(networks):
    video, masks = clip()
    pipeline = Pipeline(networks, QUICK)
    assert np.array_equal(pipeline(video, masks[0]), pipeline(video, np.stack([masks[0]] * len(video)) * 255))


@pytest.mark.slow
def test_sizes_that_are_no_multiple_of_8(networks):
    """Down to the multiple below by bicubic, back by bilinear: the whole frame, as published."""
    video, masks = clip(2, 133, 141)
    output = Pipeline(networks, QUICK)(video, masks)

    def resized(images, height, width, method):
        return np.stack([np.asarray(Image.fromarray(image).resize((width, height), method)) for image in images])

    small = resized(video, 128, 136, Image.Resampling.BICUBIC)
    small_masks = resized(masks, 128, 136, Image.Resampling.NEAREST)
    expected = resized(Pipeline(networks, QUICK)(small, small_masks), 133, 141, Image.Resampling.BILINEAR)
    assert np.array_equal(output, expected)


@pytest.mark.slow
def test_arrays_of_any_layout(networks, result):
    video, masks = clip()
    mirrored = np.ascontiguousarray(video[:, :, ::-1])[:, :, ::-1]
    mirrored.flags.writeable = False
    assert np.array_equal(Pipeline(networks, QUICK)(mirrored, np.asfortranarray(masks)), result)


def test_no_hole_gives_the_input(networks, caplog):
    video, masks = clip()
    output = inpaint(networks, video, np.zeros_like(masks))
    assert np.array_equal(output, video)
    assert output is not video
    assert "no mask has a hole" in caplog.text


@pytest.mark.slow
def test_flow_masks_are_used_as_they_are(networks):
    seen = {}

    class Recorder(Observer):
        def tensors(self, stage, **tensors):
            seen[stage] = tensors

    video, masks = clip()
    wider = prepare_masks(masks > 0, masks.shape[1:], dilation=8)
    output = Pipeline(networks, QUICK, observer=Recorder())(video, masks, wider)
    assert np.array_equal(output[masks == 0], video[masks == 0])
    assert (output[masks > 0] != video[masks > 0]).mean() > 0.9
    estimated, completed = seen["flow"]["flow_f"], seen["completion"]["flow_f"]
    changed = (estimated != completed).any(dim=2)[0].numpy()
    assert np.array_equal(changed, wider[:-1] > 0)


@pytest.mark.slow
def test_progress_names_the_stages_in_order(networks):
    steps: list[tuple[str, int, int]] = []
    video, masks = clip(14, 128, 128)
    inpaint(networks, video, masks, raft_iterations=1, progress=lambda *step: steps.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in steps))
    assert stages == list(STAGES)
    assert steps == [
        *(("flow", done, 14) for done in (0, 12, 14)),
        *(("completion", done, 1) for done in (0, 1)),
        *(("propagation", done, 1) for done in (0, 1)),
        *(("generation", done, 3) for done in (0, 1, 2, 3)),
    ]
