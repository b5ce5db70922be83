"""Reading ahead and writing behind: order, bounds, errors, and no thread left."""

import threading
import time

import pytest

from experiments.data.background_io import Abandoned, ReadAhead, WriteBehind
from propainter import InputError


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def iter_of(items):
    yield from items


def test_items_in_order():
    written = []
    with ReadAhead(iter_of(range(50)), 3) as items, WriteBehind(written.extend, 3) as write:
        for item in items:
            write(item)
    assert written == list(range(50))


class TestReadAhead:
    def test_no_more_than_asked_for_is_read(self):
        made = []
        with ReadAhead((made.append(i) or i for i in range(100)), 4) as items:
            assert next(items) == 0
            time.sleep(0.3)
            assert len(made) <= 6

    def test_an_error_comes_in_its_items_place(self):
        def items():
            yield 1
            raise InputError("the film is torn")

        with ReadAhead(items(), 3) as read:
            assert next(read) == 1
            with pytest.raises(InputError, match="the film is torn"):
                next(read)
            assert list(read) == []

    def test_after_the_block_nothing_is_read(self):
        made = []
        with ReadAhead((made.append(i) or i for i in range(100)), 2) as items:
            next(items)
        assert list(items) == [] and len(made) <= 4


class TestWriteBehind:
    def test_an_error_comes_at_the_next_item_or_the_end(self):
        def full(items):
            next(items)
            raise OSError("no space left")

        with pytest.raises(OSError, match="no space left"), WriteBehind(full, 2) as write:
            for item in range(100):
                write(item)
        with pytest.raises(OSError, match="no space left"), WriteBehind(full, 2) as write:
            write(1)

    def test_no_more_than_asked_for_waits(self):
        taken = threading.Semaphore(0)
        written, given = [], []

        def slow(items):
            for item in items:
                taken.acquire()
                written.append(item)

        def give(write):
            for item in range(10):
                write(item)
                given.append(item)

        with WriteBehind(slow, 3) as write:
            giver = threading.Thread(target=give, args=(write,))
            giver.start()
            time.sleep(0.3)
            waiting = len(given)
            taken.release(10)
            giver.join()
        assert waiting <= 4
        assert written == list(range(10))

    def test_a_consumer_that_ends_early_is_an_error(self):
        with pytest.raises(RuntimeError, match="before the last"), WriteBehind(next, 2) as write:
            for item in range(100):
                write(item)
                time.sleep(0.01)


def test_an_error_in_between_ends_both():
    closed, written = [], []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    def write_all(items):
        try:
            written.extend(items)
        except Abandoned:
            written.append("abandoned")
            raise

    with pytest.raises(KeyboardInterrupt), ReadAhead(items(), 2) as read, WriteBehind(write_all, 2) as write:
        for item in read:
            write(item)
            if item == 5:
                raise KeyboardInterrupt
    assert closed == [True]
    assert written[-1] == "abandoned"
