"""What a run over a sliding span of a video holds: each frame's share by name, from its making to its last use."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from propainter.schedule import Window


class Span:
    """Entries by name and frame number; a flow has the number of its first frame.

    Tensors are [1, C, H, W] each, on the device; masks may be uint8, and are given in `dtype`. Images of the host are
    uint8 arrays.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._entries: dict[str, dict[int, Tensor | np.ndarray]] = {}

    def put(self, name: str, first: int, entries: Tensor) -> None:
        """Keep [1, n, C, H, W], the frames from `first` on: copies, so that no entry holds another's memory."""
        kept = self._entries.setdefault(name, {})
        kept.update((number, entry.clone()) for number, entry in enumerate(entries.unbind(1), first))

    def put_one(self, name: str, number: int, entry: Tensor | np.ndarray) -> None:
        """Keep a tensor [1, C, H, W] or an image of the host as it is."""
        self._entries.setdefault(name, {})[number] = entry

    def get(self, name: str, numbers: Sequence[int]) -> Tensor:
        """[1, n, C, H, W] of these frames, a copy.

        Raises:
            KeyError: one of them has not been made, or was let go.
        """
        kept = self._entries[name]
        entries = torch.stack([kept[number] for number in numbers], dim=1)
        return entries.to(self.dtype) if entries.dtype == torch.uint8 else entries

    def images(self, name: str, numbers: Sequence[int]) -> np.ndarray:
        """[n, ...], a copy; errors as in `get`."""
        kept = self._entries[name]
        return np.stack([kept[number] for number in numbers])

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


def _address(entry: Tensor | np.ndarray) -> int:
    return entry.data_ptr() if isinstance(entry, Tensor) else entry.ctypes.data


class NumberedFrom:
    """A span's tensors under numbers that begin at 0 with the frame `first`: a store for a `Scene`."""

    def __init__(self, span: Span, first: int) -> None:
        self._span, self._first = span, first

    def get(self, name: str, numbers: Sequence[int]) -> Tensor:
        """See `Span.get`."""
        return self._span.get(name, [number + self._first for number in numbers])


def shifted(window: Window, by: int) -> Window:
    """The window with `by` added to its frame numbers."""
    return Window(*([number + by for number in numbers] for numbers in window))


class WindowGroups:
    """The windows of a video in groups, each of those that can be predicted once the same sub-video is propagated.

    Args:
        windows: all of them, in order; not empty.
        ends: for each sub-video of pixel propagation the first frame after what is kept of it.
    """

    def __init__(self, windows: Sequence[Window], ends: Sequence[int]) -> None:
        self.count = len(windows)
        self._groups: list[list[Window]] = []
        reached = -1
        for window in windows:
            needed = max(window.frames)
            last = max(reached, next(i for i, end in enumerate(ends) if needed < end))
            if last > reached:
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
