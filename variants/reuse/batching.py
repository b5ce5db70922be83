"""How many frames or windows go through a layer together (for `reuse`)."""

from collections.abc import Callable

import torch
from torch import Tensor

TEMPORARY_BYTES = {"cpu": 8 * 2**20}
"""By device type, the bound of one temporary tensor. On the CPU, glibc maps anything over 32 MiB anew each time it is
allocated, and the kernel clears every page of it again; 4 and 16 MiB were no faster than 8 (docs/performance.md)."""

TEMPORARY_BYTES_ELSEWHERE = 512 * 2**20


def batch_size_for(device: torch.device, entry_bytes: int) -> int:
    """How many entries of `entry_bytes` each fit the bound of a temporary tensor; at least one."""
    return max(1, TEMPORARY_BYTES.get(device.type, TEMPORARY_BYTES_ELSEWHERE) // entry_bytes)


GROWTH = 16
"""Flow completion's features at full size, 32 channels, against the inputs of the layers that work there: 2 channels of
flow in twice their precision, and 128 channels at an eighth of the size."""


class FrameBatcher:
    """Takes flow into and out of its completion a few frames at a time: at full size its features take the most.

    Args:
        said: `frames_together` of the latest call is written there.
    """

    def __init__(self, stats: dict[str, int]) -> None:
        self.stats = stats

    def __call__(
        self, layers: Callable[..., Tensor], inputs: tuple[Tensor, ...], frames_in: int, frames_out: int
    ) -> Tensor:
        """Stands in for `propainter.models.flow_completion.unbatched`."""
        count = inputs[0].shape[frames_in]
        largest = GROWTH * inputs[0].nbytes // count
        step = self.stats["frames_together"] = min(count, batch_size_for(inputs[0].device, largest))
        result, start = None, 0
        for some in zip(*(x.split(step, frames_in) for x in inputs), strict=True):
            part = layers(*some)
            if result is None:
                result = part.new_empty([*part.shape[:frames_out], count, *part.shape[frames_out + 1 :]])
            result.narrow(frames_out, start, part.shape[frames_out]).copy_(part)
            start += part.shape[frames_out]
        return result
