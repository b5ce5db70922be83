"""The published inference over a sliding span of a video: the same computations in another order.

Each computation runs when a window first needs its result. Each result is freed after its last reader. So the
schedule's sub-videos and windows bound the memory, not the length of the video.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from propainter.allocator import mmap_threshold
from propainter.inference.interfaces import Clip
from propainter.inference.streaming_run import Checkpoint, Part, StreamingRun

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline


class Streaming:
    """Take a video through the stages span by span: a `StageRunner`, which also takes frames one by one.

    Each group of windows gets its own scene, numbered from the group's first frame. The feature provider gets one scene
    of the whole video, which holds a window's frames while that window is predicted. The pipeline's `storage` is not
    used.

    Args:
        stats: report of all runs, updated in place. `held_frames` is the largest distance between the first and the
            last held frame, both included. `held_bytes` is the largest size of held frames, masks and flows, on host
            and device together. `mapped_from_bytes` is the smallest tensor with a mapping of its own, in bytes (see
            `mmap_threshold`); None on other devices than a CPU, and without glibc.
    """

    def __init__(self, stats: dict[str, Any]) -> None:
        self.stats = stats
        stats.update(held_frames=0, held_bytes=0, mapped_from_bytes=None)

    def __call__(self, pipeline: "Pipeline", clip: Clip) -> np.ndarray:
        """Inpaint a clip that is in memory. Return uint8 [T, H, W, 3]."""
        flow_masks = repeat(None) if clip.flow_masks is None else clip.flow_masks
        parts = zip(clip.frames, clip.masks, flow_masks)  # noqa: B905
        result = np.empty(clip.frames.shape, np.uint8)
        images = self.frames(pipeline, len(clip.frames), clip.frames.shape[1:3], parts)
        for target, image in zip(result, images, strict=True):
            target[...] = image
        return result

    def frames(
        self,
        pipeline: "Pipeline",
        num_frames: int | None,
        size: tuple[int, int],
        parts: Iterable[Part],
        *,
        after: Checkpoint | None = None,
        on_checkpoint: Callable[[Checkpoint], object] = lambda checkpoint: None,
    ) -> Generator[np.ndarray, None, None]:
        """Yield the finished frames in order, uint8 [H, W, 3], each as soon as no later window fills it.

        Other arguments and errors are those of `groups`.

        Args:
            on_checkpoint: called with each checkpoint, before the first of the frames that complete it is yielded.
        """
        with closing(self.groups(pipeline, num_frames, size, parts, after)) as groups:
            for images, checkpoint in groups:
                on_checkpoint(checkpoint)
                yield from images

    @torch.inference_mode()
    def groups(
        self,
        pipeline: "Pipeline",
        num_frames: int | None,
        size: tuple[int, int],
        parts: Iterable[Part],
        after: Checkpoint | None = None,
    ) -> Generator[tuple[np.ndarray, Checkpoint], None, None]:
        """Yield the finished frames of each group of windows, uint8 [n, H, W, 3], and where a later run can go on.

        Args:
            pipeline: the pipeline to follow.
            num_frames: length of the video, at least 2; None where it is unknown: the video is then as long as `parts`.
            size: H and W, of at least 128.
            parts: `num_frames` parts, read one by one as the stages need them.
            after: of an earlier run with the same pipeline and video, of known length: the first group is the one after
                it. The result is bit-equal, but where a variant keeps features over groups (`reuse`): these are encoded
                again, in other batches.

        Raises:
            InputError: there are fewer parts, or a frame has another size.
        """
        on_cpu = pipeline.networks.device.type == "cpu"
        with mmap_threshold() if on_cpu else nullcontext() as self.stats["mapped_from_bytes"]:
            run = StreamingRun(pipeline, num_frames, size, iter(parts), self.stats)
            if after is not None:
                run.skip_to(after)
            yield from run.groups()
