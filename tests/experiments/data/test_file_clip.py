"""Clips from files: read as they are, resized, matched with their masks, or refused in a sentence."""

import logging

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from support.command_line import ROOT
from support.sentences import raises_sentence

from experiments.data import folder_clip, load, sample_clip, video_clip
from propainter.io.video import VideoWriter

CONF = ROOT / "conf" / "data"


# Loading


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (sample_clip(1), "at least two"),
        (sample_clip(2, height=127), "data.height"),
        (sample_clip(2, width=100), "data.width"),
    ],
)
def test_too_few_frames_or_pixels_are_refused(clip, said):
    with raises_sentence(said):
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
    clips = [load(folder_clip(frames, files.mask(mask), **options)) for mask in (top, left) for options in ({}, SMALL)]
    assert len({clip.fingerprint for clip in clips}) == 4
    assert load(folder_clip(str(frames), files.mask(top))).fingerprint == clips[0].fingerprint
    flat = [np.full((*size, 3), 128, np.uint8) for size in ((160, 200), (200, 160))]
    upright, lying = (load(folder_clip(files.images([frame] * 2), files.mask(frame[..., 0] * 0))) for frame in flat)
    assert upright.frames.tobytes() == lying.frames.tobytes()
    assert upright.fingerprint != lying.fingerprint


# Folders and videos

SMALL = {"height": 128, "width": 160}


class Files:
    """Makes frames and masks as files, 160 x 200 pixels where nothing else is said."""

    def __init__(self, folder):
        self.folder = folder
        self.made = 0

    def new(self, name=""):
        self.made += 1
        path = self.folder / f"{self.made}{name}"
        if not name:
            path.mkdir()
        return path

    def images(self, images):
        folder = self.new()
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / f"frame_{index}.png")
        return folder

    def frames(self, count=4, sizes=((160, 200),)):
        chosen = [sizes[min(index, len(sizes) - 1)] for index in range(count)]
        return self.images(next(sample_clip(1, *size, seed=i).frames()) for i, size in enumerate(chosen))

    def mask(self, mask):
        path = self.new(".png")
        Image.fromarray(mask.astype(np.uint8)).save(path)
        return path

    def masks(self, count=4, height=160, width=200):
        masks = np.zeros((count, height, width), np.uint8)
        for index, mask in enumerate(masks):
            mask[height // 4 : height // 2, index * 10 : index * 10 + 40] = 255
        return self.images(masks)

    def video(self, images):
        path = self.new(".mp4")
        images = list(images)
        with VideoWriter(path, 30, *images[0].shape[:2]) as video:
            for image in images:
                video.write(image)
        return path


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_a_folder_is_read_as_it_is(files):
    folder, masks = files.frames(12), files.masks(12)
    clip = load(folder_clip(folder, masks, fps=25))
    assert (clip.name, clip.fps, clip.truth, clip.flow_masks) == (folder.name, 25, None, None)
    for index in (0, 2, 11):
        assert np.array_equal(clip.frames[index], np.array(Image.open(folder / f"frame_{index}.png")))
        assert np.array_equal(clip.masks[index], np.array(Image.open(masks / f"frame_{index}.png")) // 255)


def test_one_mask_serves_every_frame(files):
    hole = np.zeros((160, 200))
    hole[30:50, 60:90] = 1
    clip = load(folder_clip(files.frames(3), files.mask(hole)))
    assert all(np.array_equal(mask, hole) for mask in clip.masks)


def test_max_frames_takes_the_first_of_both(files):
    frames, masks = files.frames(6), files.masks(6)
    whole, first = load(folder_clip(frames, masks)), load(folder_clip(frames, masks, max_frames=3))
    assert np.array_equal(first.frames, whole.frames[:3]) and np.array_equal(first.masks, whole.masks[:3])
    assert folder_clip(frames, masks, max_frames=50).num_frames == 6


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"height": 240, "width": 432}, (240, 432)),
        ({"height": 320}, (320, 400)),
        ({"width": 333}, (266, 333)),
        ({"resize_ratio": 2}, (320, 400)),
        ({"height": 300, "width": 400, "resize_ratio": 0.5}, (150, 200)),
        ({"height": 480, "width": 720, "resize_ratio": 0.7}, (336, 504)),
    ],
)
def test_sizes(files, options, size):
    frames, mask = files.frames(2), files.mask(np.random.default_rng(0).integers(0, 2, (160, 200)))
    clip = load(folder_clip(frames, mask, **options))
    assert clip.frames.shape[1:3] == clip.masks.shape[1:] == size
    assert set(np.unique(clip.masks)) == {0, 1}
    frame = Image.open(frames / "frame_0.png").resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(clip.frames[0], np.array(frame))
    expected = Image.open(mask).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(clip.masks[1], np.array(expected))


def test_masks_of_another_size_are_fitted_and_of_another_shape_refused(files):
    frames = files.frames(2)
    assert load(folder_clip(frames, files.masks(2, 320, 400))).masks.shape == (2, 160, 200)
    assert load(folder_clip(frames, files.masks(2, 320, 401))).masks.shape == (2, 160, 200)
    assert load(folder_clip(frames, files.masks(2, 128, 200), height=128, width=200)).masks.any()
    with raises_sentence("200x160", "204x160"):
        load(folder_clip(frames, files.masks(2, 160, 204)))


def test_frames_of_different_sizes_are_refused(files):
    frames = files.frames(4, sizes=[(160, 200), (160, 200), (160, 208)])
    with raises_sentence(frames / "frame_2.png", "208x160", "200x160"):
        load(folder_clip(frames, files.masks(4)))


@pytest.mark.parametrize("max_frames", [None, 3])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_another_number_of_masks_is_refused_before_max_frames_cuts(files, count, max_frames):
    masks = files.masks(count)
    with raises_sentence(masks, f"{count} masks", "4 frames"):
        folder_clip(files.frames(4), masks, max_frames=max_frames)


def test_a_damaged_frame_is_named(files):
    frames = files.frames(4)
    damaged = frames / "frame_2.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with raises_sentence(damaged):
        load(folder_clip(frames, files.masks(4)))


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
    small = load(video_clip(path, mask_video, max_frames=3, **SMALL))
    assert small.frames.shape == (3, 128, 160, 3) and small.masks.shape == (3, 128, 160)


def test_a_folder_with_a_mask_video_and_a_video_with_one_mask(files):
    hole = np.zeros((160, 200), np.uint8)
    hole[30:50, 60:90] = 255
    mask_video = files.video([np.repeat(hole[..., None], 3, axis=2)] * 4)
    assert load(folder_clip(files.frames(4), mask_video)).hole_fraction == pytest.approx(0.01875, rel=0.1)
    path = files.video(sample_clip(4, 160, 200).frames())
    assert load(video_clip(path, files.mask(hole))).hole_fraction == 0.01875
    with raises_sentence("3 masks", "4 frames"):
        video_clip(path, files.masks(3))


def test_what_is_missing_or_of_the_wrong_kind_is_said(files):
    frames, masks, path = files.frames(2), files.masks(2), files.video(sample_clip(2, 160, 200).frames())
    for make, said in [
        (lambda: folder_clip(None, masks), "data.frames"),
        (lambda: folder_clip(frames, None), "data.masks"),
        (lambda: folder_clip(frames, frames / "none"), "data.masks"),
        (lambda: folder_clip(path, masks), "data=video"),
        (lambda: video_clip(None, masks), "data.video"),
        (lambda: video_clip(path, None), "data.masks"),
        (lambda: video_clip(frames, masks), "data=folder"),
        (lambda: video_clip(frames / "none.mp4", masks), "does not exist"),
        (lambda: folder_clip(frames, masks, outpaint={"scale_w": 1.5}), "leave one"),
        (lambda: folder_clip(frames, masks, height=0), "data.height"),
        (lambda: folder_clip(frames, masks, width="wide"), "data.width"),
        (lambda: folder_clip(frames, masks, max_frames=1.5), "data.max_frames"),
        (lambda: folder_clip(frames, masks, fps="fast"), "data.fps"),
        (lambda: folder_clip(frames, masks, resize_ratio=-1), "data.resize_ratio"),
        (lambda: folder_clip(frames, masks, max_frames=0), "data.max_frames"),
    ]:
        with raises_sentence(said):
            make()


def test_outpainting_of_files(files):
    path = files.video(sample_clip(3, 160, 200).frames())
    clip = load(video_clip(path, None, outpaint={"scale_h": None, "scale_w": 1.5}))
    assert clip.frames.shape == (3, 160, 296, 3) and clip.flow_masks.sum() > clip.masks.sum()


# The YAML files


def test_the_options_in_conf_make_clips(files):
    sample = instantiate(OmegaConf.load(CONF / "sample.yaml"))
    assert sample == sample_clip()
    folder = OmegaConf.load(CONF / "folder.yaml")
    folder.frames, folder.masks = str(files.frames(2)), str(files.masks(2))
    assert instantiate(folder).num_frames == 2
    video = OmegaConf.load(CONF / "video.yaml")
    video.video = str(files.video(sample_clip(2, 160, 200).frames()))
    video.outpaint.scale_w = 1.2
    assert instantiate(video).width == 240
