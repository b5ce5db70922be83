"""Peak memory, and what keeps it from growing: large tensors in mappings of their own, few kernels kept."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.command_line import ROOT

from propainter import InputError
from propainter import memory_tracker as memory
from propainter.memory_tracker import (
    KERNELS_KEPT,
    LARGEST_FROM_HEAP_BYTES,
    RssPeak,
    mmap_threshold,
    no_heap_trim,
    set_onednn_cache_capacity,
)

MIB = 2**20
GLIBC = platform.libc_ver()[0] == "glibc"


MEASURED = """
import psutil, torch
from propainter.memory_tracker import release_memory, mmap_threshold

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


LEFT = """
import psutil
from propainter.memory_tracker import release_memory
from propainter.models.networks import seeded_state_dict

def resident():
    release_memory()
    return psutil.Process().memory_info().rss

seeded_state_dict("flow_completion")
before = resident()
seeded_state_dict("generator")
print(resident() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="needs glibc, which keeps what a thread has freed")
def test_drawing_weights_leaves_nothing_behind():
    said = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(said) < 16 * MIB  # of 157 MiB of weights; drawn in what the threads allocate it was 100


@pytest.mark.skipif(not RssPeak.available(), reason="needs Linux: its kernel keeps a high-water mark that can be reset")
def test_peak_is_of_memory_and_not_of_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    peak = RssPeak()
    peak.reset()
    mapped = np.memmap(tmp_path / "file", mode="r")
    assert mapped.sum() == 0 and peak.peak_bytes() < 16 * MIB
    torch.ones(64 * MIB, dtype=torch.uint8)
    assert 56 * MIB < peak.peak_bytes() < 90 * MIB
    memory.malloc_trim()  # where the heap had room for it, glibc keeps it
    peak.reset()
    assert peak.peak_bytes() < 16 * MIB


@pytest.mark.skipif(not GLIBC, reason="needs glibc, whose heap this is about")
def test_freed_tensors_go_back_at_once():
    said = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    from_bytes, mapped, kept = (int(number) for number in said.split())
    assert from_bytes == MIB
    assert mapped < 70 * MIB < 140 * MIB < kept  # of 40 MiB in use, and 200 that were freed


KEPT = """
import psutil, torch
from propainter.memory_tracker import no_heap_trim

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


@pytest.mark.skipif(not GLIBC, reason="needs glibc, which gives the end of its heap back")
def test_freed_memory_is_kept_inside_and_given_back_after():
    said = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    kept, inside, after = said.split()
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

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    with pytest.raises(KeyError), mmap_threshold(MIB):
        assert calls == [(-3, MIB)]
        raise KeyError
    restored = [(-3, LARGEST_FROM_HEAP_BYTES), (-1, 2 * LARGEST_FROM_HEAP_BYTES)]
    assert calls[1:] == restored
    calls.clear()
    with pytest.raises(KeyError), no_heap_trim() as kept:
        assert kept and calls == [(-3, LARGEST_FROM_HEAP_BYTES), (-1, 2**31 - 1)]
        raise KeyError
    assert calls[2:] == restored


@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2")])
def test_another_c_library_is_left_alone(monkeypatch, library):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: library)
    with mmap_threshold() as from_bytes, no_heap_trim() as kept:
        assert from_bytes is None and kept is False


KERNELS = """
import os, sys, torch
from propainter.memory_tracker import set_onednn_cache_capacity

print("kept", set_onednn_cache_capacity(2) if sys.argv[1] == "few" else None)
for side in (64, 72, 80, 64, 72, 80):
    torch.conv2d(torch.rand(1, 16, side, side), torch.rand(16, 16, 3, 3))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs a torch built with oneDNN")
def test_onednn_drops_kernels_and_makes_them_anew():
    environment = {key: value for key, value in os.environ.items() if key != KERNELS_KEPT}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    made = {}
    for kept in ("few", "all"):
        command = [sys.executable, "-c", KERNELS, kept]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
        assert f"kept {2 if kept == 'few' else None}" in said
        made[kept] = sum("create:cache_miss" in line and ",convolution," in line for line in said.splitlines())
    assert made == {"few": 6, "all": 3}


def test_what_the_environment_says_wins(monkeypatch):
    monkeypatch.setenv(KERNELS_KEPT, "500")
    assert set_onednn_cache_capacity() == 500 and os.environ[KERNELS_KEPT] == "500"
    monkeypatch.setenv(KERNELS_KEPT, "many")
    with pytest.raises(InputError, match="is 'many' in the environment; give a whole number"):
        set_onednn_cache_capacity()
