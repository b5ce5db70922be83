"""Batch sizes of frames and windows by a bound on temporary tensors (for `reuse`)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TEMPORARY_BYTES = {"cpu": 8 * 2**20}
"""Bound of one temporary tensor by device type. On the CPU, glibc maps each allocation over 32 MiB anew, and the kernel
clears every page of it again; 4 and 16 MiB were no faster than 8 (docs/performance.md)."""

TEMPORARY_BYTES_ELSEWHERE = 512 * 2**20


def batch_size_for(device: torch.device, entry_bytes: int) -> int:
    """Return how many entries of `entry_bytes` bytes fit the bound of a temporary tensor; at least 1."""
    return max(1, TEMPORARY_BYTES.get(device.type, TEMPORARY_BYTES_ELSEWHERE) // entry_bytes)


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate a result's batches; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


GROWTH = 16
"""Bytes of flow completion's features at full size (32 channels) over bytes of the inputs of the layers there: 2
channels of flow in twice the precision, and 128 channels at an eighth of the size."""


class FrameBatcher:
    """Run flow completion's first and last layers on a few frames at a time: at full size their features are largest.

    Args:
        stats: gets `frames_together` of the latest call.
    """

    def __init__(self, stats: dict[str, int]) -> None:
        self.stats = stats

    def __call__(
        self, layers: Callable[..., Tensor], inputs: tuple[Tensor, ...], frames_in: int, frames_out: int
    ) -> Tensor:
        """Replace `propainter.models.flow_completion.unbatched`."""
        count = inputs[0].shape[frames_in]
        largest = GROWTH * inputs[0].nbytes // count
        step = self.stats["frames_together"] = min(count, batch_size_for(inputs[0].device, largest))
        result: Tensor | None = None
        start = 0
        for some in zip(*(x.split(step, frames_in) for x in inputs), strict=True):
            part = layers(*some)
            if result is None:
                result = part.new_empty([*part.shape[:frames_out], count, *part.shape[frames_out + 1 :]])
            result.narrow(frames_out, start, part.shape[frames_out]).copy_(part)
            start += part.shape[frames_out]
        assert result is not None  # there is at least one frame
        return result
