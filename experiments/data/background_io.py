"""Read ahead and write behind: one thread each, and a bound on how many items wait in memory."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_END: Any = object()


class Abandoned(Exception):
    """The block of a `WriteBehind` ended with an error, before its last item."""


class ReadAhead(Generic[Item]):
    """Iterate over items that a thread makes, at most `at_most` of them ahead.

    An error of `items` is raised here, at the item that could not be made. Leaving the block closes a generator.

    Args:
        items: advanced in the thread alone.
        name: of the thread.

    Attributes:
        waited_s: seconds that the caller waited for items.
    """

    def __init__(self, items: Iterator[Item], at_most: int, name: str = "read ahead") -> None:
        self._items = items
        self._at_most = at_most
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._ahead: deque[Future[Item]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> "ReadAhead[Item]":
        for _ in range(self._at_most):
            self._read_one()
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._ahead.clear()
        if isinstance(self._items, Generator):
            self._items.close()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if not self._ahead:
            raise StopIteration
        start = time.perf_counter()
        item = self._ahead.popleft().result()
        self.waited_s += time.perf_counter() - start
        if item is _END:
            self._ahead.clear()
            raise StopIteration
        self._read_one()
        return item

    def _read_one(self) -> None:
        self._ahead.append(self._executor.submit(next, self._items, _END))


class WriteBehind(Generic[Item]):
    """Call it with items: a thread consumes them in order, and at most `at_most` of them wait.

    An error of the consumer is raised at the next call, or at the block's end. If the block ends with an error, the
    consumer still gets the items given so far, and then `Abandoned` is raised in it.

    Args:
        consume: called once, in the thread, with an iterator over the items.
        name: of the thread.

    Attributes:
        waited_s: seconds that the caller waited for room.
    """

    def __init__(self, consume: Callable[[Iterator[Item]], object], at_most: int, name: str = "write behind") -> None:
        self._consume = consume
        self._queue: Queue[Any] = Queue(at_most)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._consumed: Future[object]
        self.waited_s = 0.0

    def __enter__(self) -> "WriteBehind[Item]":
        self._consumed = self._executor.submit(self._consume, self._items())
        self._consumed.add_done_callback(self._empty)
        return self

    def __call__(self, item: Item) -> None:
        if self._consumed.done():
            self._consumed.result()
            raise RuntimeError("the consumer ended before the last item")
        start = time.perf_counter()
        self._queue.put(item)
        self.waited_s += time.perf_counter() - start

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if not self._consumed.done():
            self._queue.put(_END if kind is None else Abandoned())
        self._executor.shutdown()
        if kind is None:
            self._consumed.result()

    def _items(self) -> Iterator[Item]:
        while (item := self._queue.get()) is not _END:
            if isinstance(item, Abandoned):
                raise item
            yield item

    def _empty(self, consumed: "Future[object]") -> None:
        # A call that waits for room gets it. It is the last: the next one sees that the consumer is done.
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
