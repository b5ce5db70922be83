"""Loading: what is refused in a sentence, and what the fingerprint covers."""

import logging

import numpy as np
import pytest
from support.sentences import raises_sentence

from experiments.data import folder_clip, load, sample_clip, survey


@pytest.mark.parametrize(
    ("clip", "part"),
    [
        (sample_clip(1), "at least two"),
        (sample_clip(2, height=127), "data.height"),
        (sample_clip(2, width=100), "data.width"),
    ],
)
def test_too_few_frames_or_pixels_are_refused(clip, part):
    with raises_sentence(part):
        load(clip)


def test_a_clip_that_is_all_hole_is_refused_and_one_without_hole_is_not(files, caplog):
    with raises_sentence("hole everywhere"):
        load(folder_clip(files.frames(), files.mask(np.ones((160, 200)))))
    with caplog.at_level(logging.WARNING):
        clip = load(folder_clip(files.frames(), files.mask(np.zeros((160, 200)))))
    assert clip.hole_fraction == 0
    assert [record.message for record in caplog.records if "output will equal the input" in record.message]


def test_the_fingerprint_knows_frames_masks_and_shape(files):
    frames = files.frames()
    top, left = np.zeros((2, 160, 200))
    top[:5], left[:, :5] = 1, 1
    sizes = {}, {"height": 128, "width": 160}
    clips = [load(folder_clip(frames, files.mask(mask), **size)) for mask in (top, left) for size in sizes]
    assert len({clip.fingerprint for clip in clips}) == 4
    assert load(folder_clip(str(frames), files.mask(top))).fingerprint == clips[0].fingerprint
    flat = [np.full((*size, 3), 128, np.uint8) for size in ((160, 200), (200, 160))]
    upright, lying = (load(folder_clip(files.images([frame] * 2), files.mask(frame[..., 0] * 0))) for frame in flat)
    assert upright.frames.tobytes() == lying.frames.tobytes()
    assert upright.fingerprint != lying.fingerprint


def test_a_survey_finds_the_figures_of_the_masks_alone(files):
    masks = np.zeros((3, 160, 200))
    masks[1:, 20:30, 40:80] = 255
    clip = folder_clip(files.frames(3), files.images(masks.astype(np.uint8)))
    found, loaded = survey(clip), load(clip)
    assert found.hole_fraction == loaded.hole_fraction > 0
    assert np.array_equal(found.first_hole, loaded.masks[1])
    assert survey(folder_clip(files.frames(3), files.images(np.zeros((3, 160, 200), np.uint8)))).first_hole is None
