"""Reading ahead and writing behind in threads of their own, with queues that hold a few items at most."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

POLL_S = 0.1
"""How often a thread that waits for room in a queue looks whether anybody still wants it to."""


class Abandoned(Exception):
    """Whoever gave the items has stopped before the last one."""


class _Beside:
    """A thread, a queue and what went wrong; leaving the block ends the thread."""

    def __init__(self, at_most: int, name: str) -> None:
        self._queue: Queue = Queue(at_most)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _put(self, item: Any) -> bool:
        """Whether there was room for it before all was over."""
        while not self._over.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=POLL_S)
                return True
        return False


class ReadAhead(_Beside, Generic[Item]):
    """Iterates over items that another thread makes, `at_most` of them before they are asked for.

    What goes wrong there is raised here, as itself, in its item's place. Leaving the block closes the items.

    Args:
        items: a generator.
    """

    def __init__(self, items: Iterator[Item], at_most: int, name: str = "read ahead") -> None:
        super().__init__(at_most, name)
        self._items = items

    def __enter__(self) -> "ReadAhead[Item]":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._over.is_set():
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self._over.set()
            raise error
        return item

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None)):
                    break
            else:
                self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))
        finally:
            self._items.close()


class WriteBehind(_Beside, Generic[Item]):
    """Call it with items; another thread consumes them in order, `at_most` of them later than they are given.

    What goes wrong there is raised at the next call, or at the block's end, as itself. Where the block ends with an
    error, the consumer still gets all items that were given, and then `Abandoned` is raised in it.

    Args:
        consume: is given an iterator over the items; called in the thread.
    """

    def __init__(self, consume: Callable[[Iterator[Item]], None], at_most: int, name: str = "write behind") -> None:
        super().__init__(at_most, name)
        self._consume = consume
        self._error: BaseException | None = None

    def __enter__(self) -> "WriteBehind[Item]":
        self._thread.start()
        return self

    def __call__(self, item: Item) -> None:
        if not self._put((item, None)):
            raise self._error or RuntimeError("what consumes the items ended before the last one")

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._put((None, StopIteration() if kind is None else Abandoned()))
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._consume(self._given())
        except Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()
            with suppress(Empty):
                while True:
                    self._queue.get_nowait()

    def _given(self) -> Iterator[Item]:
        while True:
            item, end = self._queue.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item
