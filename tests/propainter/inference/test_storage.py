"""The published storage: tensors by name, whole or some entries of them."""

import torch
from support.gpu.fake_cuda import counted, on_cuda

from propainter import DeviceStorage
from propainter.inference.storage import consecutive


def test_entries_by_slice_and_by_number():
    storage = DeviceStorage(torch.device("cpu"))
    tensor = torch.arange(10.0).view(1, 5, 1, 1, 2)
    storage.put("frames", tensor)
    assert torch.equal(storage.get("frames"), tensor)
    assert torch.equal(storage.get("frames", slice(1, 3)), tensor[:, 1:3])
    for numbers in ([4, 0], [1, 2], [2, 3, 0, 1, 4], []):
        assert torch.equal(storage.get("frames", numbers), tensor[:, numbers])


def test_nothing_is_freed_before_the_run_ends():
    storage = DeviceStorage(torch.device("cpu"))
    storage.put("masks", torch.ones(1, 2, 1, 4, 4))
    storage.drop("masks")
    assert storage.get("masks").sum() == 32


def test_runs_of_consecutive_numbers():
    assert consecutive([3, 4, 5, 0, 7, 8]) == [slice(3, 6), slice(0, 1), slice(7, 9)]
    assert consecutive([]) == [slice(0, 0)]


def test_entries_by_number_need_no_copy_from_the_host():
    def run():
        storage = DeviceStorage(torch.device("cuda"))
        storage.put("frames", on_cuda(1, 9, 3, 8, 8))
        assert storage.get("frames", [2, 3, 4]).shape == (1, 3, 3, 8, 8)
        assert storage.get("frames", [5, 6, 7, 0, 2]).shape == (1, 5, 3, 8, 8)

    cost = counted(run).costs["flow"]
    assert (cost.copies, cost.waits) == (0, 0)
