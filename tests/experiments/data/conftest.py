"""Frames and masks as files."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from experiments.data import sample_clip
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter


class Files:
    """Make frames and masks as files, 160 x 200 pixels by default."""

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
        with VideoWriter(path, VideoFormat(Fraction(30), *images[0].shape[:2])) as video:
            for image in images:
                video.write(image)
        return path


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)
