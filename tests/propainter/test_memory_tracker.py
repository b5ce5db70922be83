"""Peaks of memory: what counts, and what does not."""

import numpy as np
import pytest
import torch

from propainter.allocator import malloc_trim
from propainter.memory_tracker import RssPeak

MIB = 2**20


@pytest.mark.skipif(not RssPeak.available(), reason="needs Linux: its kernel keeps a high-water mark that can be reset")
def test_peak_is_of_memory_and_not_of_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    peak = RssPeak()
    peak.reset()
    mapped = np.memmap(tmp_path / "file", mode="r")
    assert mapped.sum() == 0 and peak.peak_bytes() < 16 * MIB
    torch.ones(64 * MIB, dtype=torch.uint8)
    assert 56 * MIB < peak.peak_bytes() < 90 * MIB
    malloc_trim()  # where the heap had room for it, glibc keeps it
    peak.reset()
    assert peak.peak_bytes() < 16 * MIB
