"""What a run over a sliding span of a video holds: each frame's share by name, from its making to its last use."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from propainter.inference.compositing import as_masks, as_video
from propainter.inference.interfaces import Scene
from propainter.models.raft import Flows
from propainter.schedule import Window

Rectangle = tuple[slice, slice]
"""Rows and columns of an image."""


class Span:
    """Entries by name and frame number; a flow has the number of its first frame.

    Tensors are [1, C, H, W] each, on the device; images and holes are uint8 arrays of the host.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, Tensor | np.ndarray]] = {}

    def put(self, name: str, first: int, entries: Tensor) -> None:
        """Keep [1, n, C, H, W], the frames from `first` on: copies, so that no entry holds another's memory."""
        kept = self._entries.setdefault(name, {})
        kept.update((number, entry.clone()) for number, entry in enumerate(entries.unbind(1), first))

    def put_one(self, name: str, number: int, entry: Tensor | np.ndarray) -> None:
        """Keep a tensor [1, C, H, W] or an image of the host as it is."""
        self._entries.setdefault(name, {})[number] = entry

    def put_in_holes(self, name: str, first: int, entries: Tensor) -> None:
        """As `put`, of each entry only what lies in the rectangle of its frame's hole."""
        for number, entry in enumerate(entries.unbind(1), first):
            self.put_one(name, number, _cut(entry, self.rectangle(number)).clone())

    def paste_into_holes(self, name: str, numbers: Sequence[int], entries: Tensor) -> None:
        """Write what `put_in_holes` kept of these frames into entries [1, n, C, H, W], in place. Errors as in `get`."""
        for place, number in enumerate(numbers):
            _cut(entries[:, place], self.rectangle(number)).copy_(self.one(name, number))

    def get(self, name: str, numbers: Sequence[int]) -> Tensor:
        """[1, n, C, H, W] of these frames, a copy.

        Raises:
            KeyError: one of them has not been made, or was let go.
        """
        kept = self._entries[name]
        return torch.stack([kept[number] for number in numbers], dim=1)

    def images(self, name: str, numbers: Sequence[int]) -> np.ndarray:
        """[n, ...], a copy; errors as in `get`."""
        kept = self._entries[name]
        return np.stack([kept[number] for number in numbers])

    def one(self, name: str, number: int) -> Tensor | np.ndarray:
        """The entry itself; errors as in `get`."""
        return self._entries[name][number]

    def rectangle(self, number: int) -> Rectangle:
        """The smallest one around the frame's hole; empty where it has none. Errors as in `get`."""
        hole = self.one("holes", number)
        return tuple(_first_to_last(hole.any(axis)) for axis in (1, 0))

    def drop_before(self, name: str, number: int) -> None:
        """Frames before this one are not needed any more."""
        kept = self._entries.get(name, {})
        for old in [t for t in kept if t < number]:
            del kept[old]

    def size(self) -> tuple[int, int]:
        """Frames from the first to the last of which anything is held, and bytes of all that is, each counted once."""
        numbers = [number for kept in self._entries.values() for number in kept]
        held_bytes = {_address(entry): entry.nbytes for kept in self._entries.values() for entry in kept.values()}
        return (max(numbers) - min(numbers) + 1 if numbers else 0), sum(held_bytes.values())


def _first_to_last(lines: np.ndarray) -> slice:
    found = np.flatnonzero(lines)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def _cut(image: Tensor, rectangle: Rectangle) -> Tensor:
    rows, columns = rectangle
    return image[..., rows, columns]


def _address(entry: Tensor | np.ndarray) -> int:
    return entry.data_ptr() if isinstance(entry, Tensor) else entry.ctypes.data


class SpanScene(Scene):
    """The scene of some windows over a span, numbered from the frame `first` on; flows are shrunk already.

    Of a propagated frame and its remaining mask the span keeps what lies in the hole's rectangle; elsewhere the frame
    is as it was, and the mask is 0.
    """

    def __init__(
        self, span: Span, device: torch.device, dtype: torch.dtype, windows: Sequence[Window], first: int = 0
    ) -> None:
        super().__init__(span, [shifted(window, -first) for window in windows])
        self._device, self._dtype, self._first = device, dtype, first

    def frames(self, numbers: Sequence[int]) -> Tensor:
        numbers = self._of_span(numbers)
        frames = as_video(self._store.images("images", numbers), self._device).to(self._dtype)
        self._store.paste_into_holes("filled", numbers, frames)
        return frames

    def masks(self, numbers: Sequence[int]) -> Tensor:
        return as_masks(self._store.images("holes", self._of_span(numbers)), self._device, self._dtype)

    def remaining_masks(self, numbers: Sequence[int]) -> Tensor:
        masks = torch.zeros_like(self.masks(numbers))
        self._store.paste_into_holes("remaining", self._of_span(numbers), masks)
        return masks

    def flows(self, numbers: Sequence[int]) -> Flows:
        pairs = self._of_span(numbers[:-1])
        return self._store.get("shrunk_f", pairs), self._store.get("shrunk_b", pairs)

    def _of_span(self, numbers: Sequence[int]) -> list[int]:
        return [number + self._first for number in numbers]


def shifted(window: Window, by: int) -> Window:
    """The window with `by` added to its frame numbers."""
    return Window(*([number + by for number in numbers] for numbers in window))


class WindowGroups:
    """The windows of a video in groups, each of some that can be predicted once the same sub-video is propagated.

    Args:
        windows: all of them, in order; not empty.
        ends: for each sub-video of pixel propagation the first frame after what is kept of it.
        most: windows in a group, at most.
    """

    def __init__(self, windows: Sequence[Window], ends: Sequence[int], most: int) -> None:
        self.count = len(windows)
        self._groups: list[list[Window]] = []
        reached = -1
        for window in windows:
            needed = max(window.frames)
            last = max(reached, next(i for i, end in enumerate(ends) if needed < end))
            if last > reached or len(self._groups[-1]) == most:
                self._groups.append([])
            self._groups[-1].append(window)
            reached = last
        self._first_local = [group[0].local[0] for group in self._groups] + [ends[-1]]
        self._first = [ends[-1]]
        for group in reversed(self._groups):
            self._first.append(min(self._first[-1], *(min(window.frames) for window in group)))
        self._first.reverse()

    def __iter__(self) -> Iterator[list[Window]]:
        """The windows of each group."""
        return iter(self._groups)

    def first_local(self, number: int) -> int:
        """The first frame that this group or a later one fills; the number of frames after the last group."""
        return self._first_local[number]

    def first_frame(self, number: int) -> int:
        """The first frame that this group or a later one looks at; the number of frames after the last group."""
        return self._first[number]
