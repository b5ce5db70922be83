"""What keeps memory from growing: large tensors in mappings of their own."""

import platform

import psutil
import pytest
import torch

from propainter import memory
from propainter.memory import LARGEST_FROM_HEAP_BYTES, give_back_unused, large_tensors_mapped

MIB = 2**20
GLIBC = platform.libc_ver()[0] == "glibc"


def resident_after_freeing_under_a_small_one(size_bytes: int) -> int:
    """Growth of the resident set when 40 large tensors are freed and the 40 of 1 MiB made between them are kept."""
    give_back_unused()
    before = psutil.Process().memory_info().rss
    large, small = [], []
    for _ in range(40):
        large.append(torch.ones(size_bytes, dtype=torch.uint8))
        small.append(torch.ones(MIB, dtype=torch.uint8))
    del large
    return psutil.Process().memory_info().rss - before


@pytest.mark.skipif(not GLIBC, reason="needs glibc, whose heap this is about")
def test_freed_tensors_go_back_at_once():
    torch.ones(30 * MIB, dtype=torch.uint8)  # freed: from now on glibc takes as large ones from its heap
    kept = resident_after_freeing_under_a_small_one(5 * MIB)
    with large_tensors_mapped() as from_bytes:
        assert from_bytes == 4 * MIB
        mapped = resident_after_freeing_under_a_small_one(5 * MIB)
    assert mapped < 60 * MIB < 140 * MIB < kept  # of 40 MiB in use, and 200 that were freed


@pytest.mark.skipif(not GLIBC, reason="needs glibc, whose options are recorded")
def test_afterwards_it_is_as_glibc_leaves_it(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    with pytest.raises(KeyError), large_tensors_mapped(MIB):
        assert calls == [(-3, MIB)]
        raise KeyError
    assert calls[1:] == [(-3, LARGEST_FROM_HEAP_BYTES), (-1, 2 * LARGEST_FROM_HEAP_BYTES)]


@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2")])
def test_another_c_library_is_left_alone(monkeypatch, library):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: library)
    with large_tensors_mapped() as from_bytes:
        assert from_bytes is None
