"""Plan the steps of a streaming run by their numbers, also while the length of the video is unknown."""

from collections.abc import Callable

from propainter.schedule import (
    FLOW_PADDING,
    MAX_PIXEL_SUBVIDEO,
    PIXEL_PADDING,
    Schedule,
    SubVideo,
    Window,
    plan_subvideo,
    plan_window,
    reference_span,
)

COMING_WINDOWS = 200
"""As many windows are announced at once while the length of the video is unknown."""


class Plan:
    """Give each step of the published schedule by its number, the same as for a video of known length.

    A step has a horizon: it is the same for every video of at least so many frames. While the length is unknown, the
    plan reads ahead to a step's horizon before it gives the step. No step of a group of windows has a horizon further
    ahead than the frames that the group's flow completion reads, by more than `neighbor_length` frames.

    Args:
        schedule: the published numbers.
        count: frames of the video; None where it is unknown.
        read_until: reads the video up to that many frames, and returns how many it has read by then: fewer only where
            the video has ended. Called while `count` is None.

    Attributes:
        count: as given; once the video has ended, its length.
        completion_length, propagation_length: frames of a sub-video of these stages.
    """

    def __init__(self, schedule: Schedule, count: int | None, read_until: Callable[[int], int]) -> None:
        self.count = count
        self.completion_length = schedule.subvideo_length
        self.propagation_length = min(MAX_PIXEL_SUBVIDEO, schedule.subvideo_length)
        self._windows = schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length
        self._reach = schedule.neighbor_length // 2
        self._span = reference_span(schedule.ref_stride, schedule.subvideo_length)
        self._read_until = read_until

    def known(self, stop: int = 0) -> int:
        """Return the length of the video; where it is unknown, a number of its frames that is at least `stop`."""
        if self.count is None:
            read = self._read_until(stop)
            if read >= stop:
                return read
            self.count = read
        return self.count

    def completion(self, number: int) -> SubVideo:
        """Return a sub-video of flow completion, in flows."""
        length = self.completion_length
        return plan_subvideo(number, self.known((number + 1) * length + FLOW_PADDING + 1) - 1, length, FLOW_PADDING)

    def propagation(self, number: int) -> SubVideo:
        """Return a sub-video of pixel propagation, in frames."""
        length = self.propagation_length
        return plan_subvideo(number, self.known((number + 1) * length + PIXEL_PADDING), length, PIXEL_PADDING)

    def flow_clip(self, first: int, most: int) -> int:
        """Return the end of the clip of RAFT that begins with this frame.

        A clip has at most `most` frames, and ends with the first sub-video of completion that reads its flows.
        """
        number = max(0, (first - FLOW_PADDING) // self.completion_length)
        return min(first + most, self.completion(number).stop + 1)

    def completion_start(self, number: int) -> int:
        """Return the first flow that this sub-video of completion or a later one reads; after the last, `count`."""
        first = number * self.completion_length
        return max(0, first - FLOW_PADDING) if self.count is None or first < self.count - 1 else self.count

    def propagation_start(self, number: int) -> int:
        """Return the first frame that this sub-video of propagation or a later one reads; after the last, `count`."""
        first = number * self.propagation_length
        return max(0, first - PIXEL_PADDING) if self.count is None or first < self.count else self.count

    def window(self, number: int) -> Window | None:
        """Return a window of the generator; None after the last one."""
        centre = number * self._reach
        count = self.known(max(centre + self._reach + 1, centre + self._span, self.completion_length + 1))
        return plan_window(centre, count, *self._windows) if centre < count else None

    def group(self, first: int, needed: int, most: int) -> list[Window]:
        """Return the next windows that become computable with the same sub-video of propagation; none at the end.

        Args:
            first: number of the first of these windows.
            needed: frames that the windows before them need.
            most: largest number of windows.
        """
        windows: list[Window] = []
        while len(windows) < most and (window := self.window(first + len(windows))):
            needs = max(needed, max(window.frames) + 1)
            if windows and self.propagations(needs) > self.propagations(needed):
                break
            windows.append(window)
            needed = needs
        return windows

    def coming(self, first: int) -> list[Window]:
        """Return all windows from this number on; while the length is unknown, some of them for a video without end."""
        count = self.count
        if count is None:
            numbers = range(first, first + COMING_WINDOWS)
            count = (numbers.stop + 1) * self._reach + self._span + self.completion_length
        else:
            numbers = range(first, self.windows(count))
        return [plan_window(number * self._reach, count, *self._windows) for number in numbers]

    def first_local(self, number: int) -> int:
        """Return the first frame that this window or a later one fills; after the last window, the video's length."""
        centre = number * self._reach
        return max(0, centre - self._reach) if centre < (count := self.known(centre + 1)) else count

    def first_frame(self, number: int) -> int:
        """Return the first frame that this window or a later one reads; after the last window, the video's length."""
        centre = number * self._reach
        count = self.known(max(centre, self.completion_length) + 1)
        if centre >= count:
            return count
        return 0 if count <= self.completion_length else max(0, centre - max(self._reach, self._span))

    def completions(self, frames: int) -> int:
        """Return the number of sub-videos of completion of a video of so many frames."""
        return -(-(frames - 1) // self.completion_length)

    def propagations(self, frames: int) -> int:
        """Return the number of sub-videos of propagation of a video of so many frames."""
        return -(-frames // self.propagation_length)

    def windows(self, frames: int) -> int:
        """Return the number of windows of a video of so many frames."""
        return -(-frames // self._reach)
