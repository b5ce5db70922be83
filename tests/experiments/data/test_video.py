"""A video with a mask video, one mask, or outpainted."""

import numpy as np

from experiments.data import load, sample_clip, video_clip


def test_a_video_with_a_mask_video(files):
    """A compressed mask's small values are no hole: the mask comes back nearly pixel for pixel."""
    frames = list(sample_clip(8, 160, 200).frames())
    masks = np.stack(list(sample_clip(8, 160, 200).masks()))
    mask_video = files.video(np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))
    path = files.video(frames)
    clip = load(video_clip(path, mask_video))
    assert (clip.name, clip.fps, len(clip.frames)) == (path.stem, 30, 8)
    assert np.mean(np.abs(clip.frames - np.stack(frames).astype(float))) < 6
    assert np.mean(clip.masks != masks) < 0.002
    small = load(video_clip(path, mask_video, max_frames=3, height=128, width=160))
    assert small.frames.shape == (3, 128, 160, 3) and small.masks.shape == (3, 128, 160)


def test_outpainting_of_files(files):
    path = files.video(sample_clip(3, 160, 200).frames())
    clip = load(video_clip(path, None, outpaint={"scale_h": None, "scale_w": 1.5}))
    assert clip.frames.shape == (3, 160, 296, 3) and clip.flow_masks.sum() > clip.masks.sum()
