"""A folder of images: read as it is, or refused in a sentence."""

import numpy as np
from PIL import Image
from support.sentences import raises_sentence

from experiments.data import folder_clip, load


def test_a_folder_is_read_as_it_is(files):
    folder, masks = files.frames(12), files.masks(12)
    clip = load(folder_clip(folder, masks, fps=25))
    assert (clip.name, clip.fps, clip.truth, clip.flow_masks) == (folder.name, 25, None, None)
    for index in (0, 2, 11):
        assert np.array_equal(clip.frames[index], np.array(Image.open(folder / f"frame_{index}.png")))
        assert np.array_equal(clip.masks[index], np.array(Image.open(masks / f"frame_{index}.png")) // 255)


def test_a_damaged_frame_is_named(files):
    frames = files.frames(4)
    damaged = frames / "frame_2.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with raises_sentence(damaged):
        load(folder_clip(frames, files.masks(4)))


def test_a_truth_is_read_beside_the_frames(files):
    frames, masks, truth = files.frames(4), files.masks(4), files.frames(4)
    clip = load(folder_clip(frames, masks, truth=truth))
    assert np.array_equal(clip.truth[3], np.array(Image.open(truth / "frame_3.png")))
    (truth / "frame_3.png").unlink()
    with raises_sentence("4 frames, and data.truth 3"):
        folder_clip(frames, masks, truth=truth)
    with raises_sentence("data.outpaint"):
        folder_clip(frames, None, truth=frames, outpaint={"scale_h": 1.0, "scale_w": 1.5})
