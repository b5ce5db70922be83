"""The allocators' controls: freed memory goes back or stays, few oneDNN kernels are kept."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from support.command_line import ROOT

from propainter import InputError, allocator
from propainter.allocator import (
    KERNELS_KEPT,
    LARGEST_HEAP_BLOCK_BYTES,
    mmap_threshold,
    no_heap_trim,
    set_onednn_cache_capacity,
)

MIB = 2**20
GLIBC = platform.libc_ver()[0] == "glibc"


def output_of(script: str) -> str:
    """Return what a Python script prints, run in a process of its own."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout


MEASURED = """
import psutil, torch
from propainter.allocator import release_memory, mmap_threshold

def kept():
    release_memory()
    before = psutil.Process().memory_info().rss
    large, small = [], []
    for _ in range(160):
        large.append(torch.ones(5 * 2**18, dtype=torch.uint8))
        small.append(torch.ones(2**18, dtype=torch.uint8))
    del large
    return psutil.Process().memory_info().rss - before

torch.ones(30 * 2**20, dtype=torch.uint8)  # freed: from now on glibc takes as large ones from its heap
with mmap_threshold() as from_bytes:
    mapped = kept()
print(from_bytes, mapped, kept())
"""
"""160 tensors of 1.25 MiB are freed, 160 of 0.25 MiB between them kept; in a process whose heap has no gaps yet."""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="needs glibc, whose heap this is about")
def test_freed_tensors_go_back_at_once():
    from_bytes, mapped, kept = (int(number) for number in output_of(MEASURED).split())
    assert from_bytes == MIB
    assert mapped < 70 * MIB < 140 * MIB < kept  # of 40 MiB in use, and 200 that were freed


KEPT = """
import psutil, torch
from propainter.allocator import no_heap_trim

def resident():
    return psutil.Process().memory_info().rss

def make_and_free():
    for _ in range(3):
        several = [torch.ones(25 * 2**20, dtype=torch.uint8) for _ in range(8)]
        del several

torch.ones(30 * 2**20, dtype=torch.uint8)  # freed: from now on glibc takes as large ones from its heap
before = resident()
with no_heap_trim() as kept:
    make_and_free()
    inside = resident() - before
print(kept, inside, resident() - before)
"""
"""200 MiB are made and freed three times; what of them is resident inside the block, and after it."""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="needs glibc, which gives the end of its heap back")
def test_freed_memory_is_kept_inside_and_given_back_after():
    kept, inside, after = output_of(KEPT).split()
    assert kept == "True"
    assert int(after) < 40 * MIB < 180 * MIB < int(inside)


@pytest.mark.skipif(not GLIBC, reason="needs glibc, whose options are recorded")
def test_afterwards_it_is_as_glibc_leaves_it(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Library)
    with pytest.raises(KeyError), mmap_threshold(MIB):
        assert calls == [(-3, MIB)]
        raise KeyError
    restored = [(-3, LARGEST_HEAP_BLOCK_BYTES), (-1, 2 * LARGEST_HEAP_BLOCK_BYTES)]
    assert calls[1:] == restored
    calls.clear()
    with pytest.raises(KeyError), no_heap_trim() as kept:
        assert kept and calls == [(-3, LARGEST_HEAP_BLOCK_BYTES), (-1, 2**31 - 1)]
        raise KeyError
    assert calls[2:] == restored


@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2")])
def test_another_c_library_is_left_alone(monkeypatch, library):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: library)
    with mmap_threshold() as from_bytes, no_heap_trim() as kept:
        assert from_bytes is None and kept is False


KERNELS = """
import os, sys, torch
from propainter.allocator import set_onednn_cache_capacity

print("kept", set_onednn_cache_capacity(2) if sys.argv[1] == "few" else None)
for side in (64, 72, 80, 64, 72, 80):
    torch.conv2d(torch.rand(1, 16, side, side), torch.rand(16, 16, 3, 3))
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs a torch built with oneDNN")
def test_onednn_drops_kernels_and_makes_them_anew():
    environment = {key: value for key, value in os.environ.items() if key != KERNELS_KEPT}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    made = {}
    for kept in ("few", "all"):
        command = [sys.executable, "-c", KERNELS, kept]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
        assert f"kept {2 if kept == 'few' else None}" in output
        made[kept] = sum("create:cache_miss" in line and ",convolution," in line for line in output.splitlines())
    assert made == {"few": 6, "all": 3}


def test_what_the_environment_says_wins(monkeypatch):
    monkeypatch.setenv(KERNELS_KEPT, "500")
    assert set_onednn_cache_capacity() == 500 and os.environ[KERNELS_KEPT] == "500"
    monkeypatch.setenv(KERNELS_KEPT, "many")
    with pytest.raises(InputError, match="is 'many' in the environment; give a whole number"):
        set_onednn_cache_capacity()
