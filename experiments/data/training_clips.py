"""Clips for training, each a function of seed and number alone, and their loading in worker processes."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from propainter.errors import InputError
from propainter.inference.preparation import widen_masks
from propainter.io.images import IMAGE_SUFFIXES, list_images, read_image
from propainter.io.paths import expand_home

Arrays = dict[str, np.ndarray]
"""A clip's arrays, by the names that `propainter.training.step.Batch.of` takes, without the dimension of clips."""


@dataclass(frozen=True)
class ClipOptions:
    """What clips are like.

    Attributes:
        seed: of all random choices.
        frames: lengths of the local frames; of several, each update draws one.
        references: number of frames from outside the local ones.
        height, width: in pixels.
        mask_dilation: pixels by which the drawn masks are dilated, as the pipeline dilates a user's.
        mask_margin: pixels by which the flow's hole is larger than the mask.
        dis: whether flow is estimated by DIS here.
        photographs: a folder with more pictures to draw from.
        windows: number of parts that are cut out of each clip, with references from it; 0 for the whole clip.
        window: local frames of a part.
        crop: rows and columns of a part.
    """

    seed: int
    frames: Sequence[int]
    references: int
    height: int
    width: int
    mask_dilation: int = 0
    mask_margin: int = 0
    dis: bool = False
    photographs: str | None = None
    windows: int = 0
    window: int = 10
    crop: tuple[int, int] = (240, 432)


class TrainingClips(Dataset[Arrays], ABC):
    """Clips by the number of an update and of the clip in it."""

    def __init__(self, options: ClipOptions) -> None:
        self.options = options

    def __getitem__(self, key: tuple[int, int, int]) -> Arrays:
        """Return a clip.

        Args:
            key: the update, its number of clips, and the clip's number among them.

        Returns:
            frames and truth uint8 [T, H, W, 3], masks uint8 [T, H, W], flow_masks uint8 [L, H, W]; flow_f, flow_b,
            estimated_f and estimated_b float32 [L-1, 2, H, W] where there are any. Local frames come first.
        """
        update, batch, index = key
        options = self.options
        # All clips of an update have one length, whichever process draws them.
        local = int(np.random.default_rng([options.seed, update]).choice(options.frames))
        arrays = self.draw(update * batch + index, local)
        arrays["masks"], _ = widen_masks(arrays["masks"], options.mask_dilation)
        arrays["flow_masks"], _ = widen_masks(arrays["masks"][:local], options.mask_margin)
        if options.dis:
            arrays["estimated_f"], arrays["estimated_b"] = dis_flows(arrays["frames"][:local])
        if options.windows:
            arrays["cuts"] = self.cuts(np.random.default_rng([options.seed, *key, 4]), arrays["masks"])
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    @property
    def outside(self) -> int:
        """Return the number of frames beside the local ones."""
        return 0 if self.options.windows else self.options.references

    def cuts(self, random: np.random.Generator, masks: np.ndarray) -> np.ndarray:
        """Draw parts of a clip about its hole: masks [T, H, W] -> rows as in `Batch.cuts`."""
        options, (num_frames, *size) = self.options, masks.shape
        window = min(options.window, num_frames)
        rows = []
        for _ in range(options.windows):
            start = int(random.integers(0, num_frames - window + 1))
            others = np.setdiff1d(np.arange(num_frames), np.arange(start, start + window))
            references = np.sort(random.choice(others, min(options.references, len(others)), replace=False))
            hole = np.argwhere(masks[start + window // 2])
            middle = hole[random.integers(len(hole))] if len(hole) else random.integers(0, size)
            corner = np.clip(middle - np.array(options.crop) // 2, 0, np.array(size) - options.crop)
            rows.append([*corner, *options.crop, window, *range(start, start + window), *references])
        return np.array(rows, np.int64)

    @abstractmethod
    def draw(self, number: int, local: int) -> Arrays:
        """Return the clip of that number: frames, truth, masks, perhaps exact flow; see `__getitem__`."""

    def local_first(self, random: np.random.Generator, available: int, local: int) -> tuple[np.ndarray, int]:
        """Draw a window and references outside it.

        Returns:
            The frames' numbers, local ones first, and the first local one.
        """
        start = int(random.integers(0, available - local + 1))
        outside = np.setdiff1d(np.arange(available), np.arange(start, start + local))
        references = np.sort(random.choice(outside, self.outside, replace=False))
        return np.concatenate([np.arange(start, start + local), references]), start


class SyntheticClips(TrainingClips):
    """Drawn clips with exact flow.

    Args:
        options: as in `TrainingClips`.

    Raises:
        InputError: the pictures that clips are drawn from can't be had; said here, before processes start.
    """

    def __init__(self, options: ClipOptions) -> None:
        from propainter.training.photographs import photographs

        super().__init__(options)
        photographs("train", options.photographs)

    def draw(self, number: int, local: int) -> Arrays:
        from propainter.training.clips import synthetic_clip

        options = self.options
        random = np.random.default_rng([options.seed, number, 1])
        total = local + self.outside
        order, start = self.local_first(random, total, local)
        seed = int(random.integers(2**31))
        clip = synthetic_clip(seed, total, options.height, options.width, split="train", folder=options.photographs)
        window = slice(start, start + local - 1)
        pictures = {name: getattr(clip, name)[order] for name in ("frames", "truth", "masks")}
        return {**pictures, "flow_f": clip.flow_f[window], "flow_b": clip.flow_b[window]}


class FolderClips(TrainingClips):
    """Windows of filmed videos, stored as folders of frames, behind the published random masks.

    Every video comes once in an epoch, in random order: a random window, reversed and mirrored in half of the cases.

    Args:
        root: holds the videos' folders, as YouTube-VOS's and DAVIS's JPEGImages do.
        options: as in `TrainingClips`.
    """

    def __init__(self, root: Path, options: ClipOptions) -> None:
        super().__init__(options)
        self.videos = video_folders(root, max(options.frames) + self.outside)

    def draw(self, number: int, local: int) -> Arrays:
        from propainter.training.masks import random_masks

        options = self.options
        epoch, place = divmod(number, len(self.videos))
        order = np.random.default_rng([options.seed, epoch, 2]).permutation(len(self.videos))
        random = np.random.default_rng([options.seed, number, 3])
        paths = list_images(self.videos[order[place]])
        chosen, _ = self.local_first(random, len(paths), local)
        if random.uniform() < 0.5:
            # Time runs backward; local frames stay in front.
            chosen = np.concatenate([chosen[:local][::-1], chosen[local:]])
        mirrored = random.uniform() < 0.5
        frames = np.stack([resized(read_image(paths[i]), options.height, options.width) for i in chosen])
        if mirrored:
            frames = frames[:, :, ::-1]
        masks = random_masks(random, len(frames), options.height, options.width)
        return {"frames": frames, "truth": frames, "masks": masks}


def video_folders(root: Path, least: int) -> list[Path]:
    """Return the folders in `root` that hold at least `least` images, sorted.

    Raises:
        InputError: there is no such folder, or none of its folders has enough images.
    """
    folder = expand_home(root)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise InputError(f"train.root is {root}, which is {what}; give the folder that holds the videos' folders")

    def count(video: Path) -> int:
        return sum(path.suffix.lower() in IMAGE_SUFFIXES for path in video.iterdir() if not path.name.startswith("."))

    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    videos = sorted(path for path in inside if count(path) >= least)
    if not videos:
        found = f"{len(inside)} folder(s)" if inside else "no folder"
        raise InputError(
            f"train.root is {root}, which holds {found}, none with {least} images; give the folder that holds a folder "
            "of frames for each video, such as YouTube-VOS's JPEGImages, or smaller train.frames and train.references"
        )
    return videos


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image uint8 [H, W, 3] in another size; by area where it shrinks."""
    import cv2

    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def dis_flows(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate flow by OpenCV's DIS as the pipeline does: uint8 [T, H, W, 3] -> flow_f, flow_b [T-1, 2, H, W]."""
    import torch

    from propainter.models.dis import DisFlowEstimator

    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    forward, backward = DisFlowEstimator()(pictures)
    return forward[0].numpy(), backward[0].numpy()


class Updates(Sampler[list[tuple[int, int, int]]]):
    """The keys of this process's clips, update by update: an equal share of each batch.

    Args:
        start, stop: numbers of the first update and of the one after the last.
        batch: clips of an update, over all processes.
        rank, world: number of this process, and of all.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.stop, self.batch = start, stop, batch
        share = batch // world
        self.clips = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for update in range(self.start, self.stop):
            yield [(update, self.batch, index) for index in self.clips]

    def __len__(self) -> int:
        return self.stop - self.start


def training_loader(clips: TrainingClips, updates: Updates, workers: int, prefetch: int) -> DataLoader:
    """Return a loader of batches, dicts of tensors [B, ...].

    Args:
        clips: the clips.
        updates: which ones.
        workers: processes that load; 0 loads in this process.
        prefetch: batches that each worker may have ready: the bound of the queue.
    """
    return DataLoader(
        clips,
        batch_sampler=updates,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=quiet_worker,
        # A process forked from one that has used OpenCV hangs at its first call: its threads are not there.
        multiprocessing_context="spawn" if workers else None,
    )


@contextmanager
def loaded(clips: TrainingClips, updates: Updates, workers: int, prefetch: int) -> Iterator[Iterator[Any]]:
    """Give the batches of `training_loader` inside the block; its workers end with it.

    A failure keeps the iterator alive in its traceback, and workers that ignore SIGTERM would keep the process from
    ending.
    """
    batches: Any = iter(training_loader(clips, updates, workers, prefetch))
    try:
        yield batches
    finally:
        if workers:
            batches._shutdown_workers()  # as Lightning ends them: the loader has no public way


def quiet_worker(number: int = 0) -> None:
    """Prepare a worker process: one thread, and signals are left to the process that trains, which saves first."""
    import cv2
    import torch

    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
