"""Frames in flight: everything that a streaming run holds, each frame's entries from their making to their last use."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from propainter.inference.interfaces import Scene
from propainter.inference.preparation import as_masks, as_video
from propainter.models.raft import Flows
from propainter.schedule import Window

Rectangle = tuple[slice, slice]
"""Rows and columns of an image."""


class FrameBuffer:
    """Hold entries by name and frame number; a flow has the number of its first frame.

    Tensors are [1, C, H, W] each, on the device. Images and holes are uint8 arrays in host memory.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, dict[int, Tensor]] = {}
        self._images: dict[str, dict[int, np.ndarray]] = {}

    def put(self, name: str, first: int, entries: Tensor) -> None:
        """Keep copies of [1, n, C, H, W], the frames from `first` on, so that no entry holds another's memory."""
        kept = self._tensors.setdefault(name, {})
        kept.update((number, entry.clone()) for number, entry in enumerate(entries.unbind(1), first))

    def put_in_holes(self, name: str, first: int, entries: Tensor) -> None:
        """Keep copies as `put` does, of each entry the rectangle of its frame's hole only."""
        kept = self._tensors.setdefault(name, {})
        for number, entry in enumerate(entries.unbind(1), first):
            kept[number] = entry[(..., *self.rectangle(number))].clone()

    def put_image(self, name: str, number: int, image: np.ndarray) -> None:
        """Keep an array of the host, uncopied."""
        self._images.setdefault(name, {})[number] = image

    def get(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Return a copy of these frames' tensors, [1, n, C, H, W].

        Raises:
            KeyError: an entry has not been made yet, or was dropped.
        """
        kept = self._tensors[name]
        return torch.stack([kept[number] for number in numbers], dim=1)

    def paste_into_holes(self, name: str, numbers: Sequence[int], entries: Tensor) -> None:
        """Write the rectangles kept by `put_in_holes` into entries [1, n, C, H, W], in place. Errors as in `get`."""
        for i, number in enumerate(numbers):
            entries[:, i][(..., *self.rectangle(number))].copy_(self._tensors[name][number])

    def images(self, name: str, numbers: Sequence[int]) -> np.ndarray:
        """Return a copy of these frames' arrays, uint8 [n, ...]. Errors as in `get`."""
        kept = self._images[name]
        return np.stack([kept[number] for number in numbers])

    def rectangle(self, number: int) -> Rectangle:
        """Return the smallest rectangle around the frame's hole, empty without a hole. Errors as in `get`."""
        hole = self._images["holes"][number]
        return _first_to_last(hole, axis=1), _first_to_last(hole, axis=0)

    def drop_before(self, name: str, number: int) -> None:
        """Drop the entries of all frames before this one."""
        for kept in (self._tensors.get(name, {}), self._images.get(name, {})):
            for old in [t for t in kept if t < number]:
                del kept[old]

    def size(self) -> tuple[int, int]:
        """Return the number of frames from the first held one to the last, and the bytes of all distinct entries."""
        tensors = [entry for kept in self._tensors.values() for entry in kept.values()]
        images = [entry for kept in self._images.values() for entry in kept.values()]
        numbers = [t for stores in (self._tensors, self._images) for kept in stores.values() for t in kept]
        held_bytes = {entry.data_ptr(): entry.nbytes for entry in tensors}
        held_bytes |= {entry.ctypes.data: entry.nbytes for entry in images}
        return (max(numbers) - min(numbers) + 1 if numbers else 0), sum(held_bytes.values())


def _first_to_last(hole: np.ndarray, axis: int) -> slice:
    found = np.flatnonzero(hole.any(axis=axis))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


class BufferedScene(Scene):
    """Give the generator's inputs of some windows from a frame buffer, numbered from the frame `first` on.

    Flows are at the size of the features already. Of a propagated frame and its remaining mask the buffer keeps the
    rectangle of the hole. Outside, the frame equals the input and the mask is 0.
    """

    def __init__(
        self, buffer: FrameBuffer, device: torch.device, dtype: torch.dtype, windows: Sequence[Window], first: int = 0
    ) -> None:
        self.windows = [shifted(window, -first) for window in windows]
        self._buffer, self._device, self._dtype, self._first = buffer, device, dtype, first

    def frames(self, numbers: Sequence[int]) -> Tensor:
        numbers = self._in_buffer(numbers)
        frames = as_video(self._buffer.images("images", numbers), self._device, pinned=True).to(self._dtype)
        self._buffer.paste_into_holes("filled", numbers, frames)
        return frames

    def masks(self, numbers: Sequence[int]) -> Tensor:
        return as_masks(self._buffer.images("holes", self._in_buffer(numbers)), self._device, self._dtype, pinned=True)

    def remaining_masks(self, numbers: Sequence[int]) -> Tensor:
        masks = torch.zeros_like(self.masks(numbers))
        self._buffer.paste_into_holes("remaining", self._in_buffer(numbers), masks)
        return masks

    def flows(self, numbers: Sequence[int]) -> Flows:
        pairs = self._in_buffer(numbers[:-1])
        return self._buffer.get("shrunk_f", pairs), self._buffer.get("shrunk_b", pairs)

    def _in_buffer(self, numbers: Sequence[int]) -> list[int]:
        return [number + self._first for number in numbers]


def shifted(window: Window, by: int) -> Window:
    """Return the window with `by` added to its frame numbers."""
    return Window(*([number + by for number in numbers] for numbers in window))
