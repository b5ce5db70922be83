"""`region=hole`: rectangles, their report, and the warning where something moves out of them."""

import numpy as np
import pytest
import torch
from support.reusing import clip

from propainter import InputError, Pipeline, Schedule
from variants.region import hole

QUICK = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=3)


def moving_by(pixels: float):
    def estimate(frames, report):
        flow = torch.zeros(1, frames.shape[1] - 1, 2, *frames.shape[-2:])
        flow[..., 5, 5] = -pixels
        return flow, torch.zeros_like(flow)

    return estimate


def logo(frames: int = 2, height: int = 1080, width: int = 1920) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((frames, height, width), bool)
    masks[:, 40:100, 1700:1820] = True
    return np.zeros((frames, height, width, 3), np.uint8), masks


def planned(masks: np.ndarray, **options):
    """The report of the rectangles, without inpainting them."""
    pipeline = hole(Pipeline(None, flow_estimator=moving_by(0)), **options)
    pipeline.clip_splitter = lambda inpaint, part: part.frames
    pipeline(np.zeros((*masks.shape, 3), np.uint8), masks)
    return pipeline.effective["region"]


def test_a_logo_in_1080p_is_a_small_job():
    region = planned(logo()[1])
    assert region["rectangles"] == [{"frames": [0, 2], "rows": [0, 168], "columns": [1632, 1888]}]
    assert region["margin_px"] == 64
    assert region["computed_share"] == pytest.approx(168 * 256 / (1080 * 1920))


def test_the_larger_margin_holds():
    masks = np.zeros((2, 600, 600), bool)
    masks[:, 250:350, 250:350] = True
    assert planned(masks, margin=10, share=0)["rectangles"][0]["rows"] == [236, 364]
    assert planned(masks, margin=10, share=1)["margin_px"] >= 108


def test_a_hole_that_moves_takes_the_rectangle_along():
    video, masks = clip(3, 200, 400)
    masks = np.stack([np.roll(mask, 100 * t, axis=1) for t, mask in enumerate(masks)])
    where = planned(masks, margin=8, share=0)["rectangles"][0]
    columns = np.flatnonzero(masks.any((0, 1)))
    assert where["columns"][0] <= columns[0] - 12 and where["columns"][1] >= columns[-1] + 13


def test_where_the_rectangle_is_the_frame_there_is_no_margin():
    masks = np.zeros((2, 136, 144), bool)
    masks[:, 60:70, 60:70] = True
    region = planned(masks)
    assert region["margin_px"] is None
    assert region["computed_share"] == 1


@pytest.mark.parametrize(("motion", "is_said"), [(7, False), (60, True)])
def test_motion_over_the_margin_is_a_warning(narrow, caplog, motion, is_said):
    video, masks = clip(3, 128, 300)
    pipeline = hole(Pipeline(narrow, QUICK, flow_estimator=moving_by(motion)), margin=8, share=0)
    pipeline(video, masks)
    assert pipeline.effective["region"]["largest_motion_px"] == motion
    assert (f"moves by {motion} pixels" in caplog.text) == is_said


@pytest.mark.parametrize("options", [{"margin": -1}, {"margin": 2.5}, {"share": -1}, {"share": "large"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"^region.{next(iter(options))} is"):
        hole(Pipeline(None, flow_estimator=moving_by(0)), **options)
