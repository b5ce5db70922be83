"""The published storage: tensors by name, whole or some entries of them."""

import torch

from propainter import DeviceStorage


def test_entries_by_slice_and_by_number():
    storage = DeviceStorage(torch.device("cpu"))
    tensor = torch.arange(10.0).view(1, 5, 1, 1, 2)
    storage.put("frames", tensor)
    assert torch.equal(storage.get("frames"), tensor)
    assert torch.equal(storage.get("frames", slice(1, 3)), tensor[:, 1:3])
    assert torch.equal(storage.get("frames", [4, 0]), tensor[:, [4, 0]])


def test_nothing_is_freed_before_the_run_ends():
    storage = DeviceStorage(torch.device("cpu"))
    storage.put("masks", torch.ones(1, 2, 1, 4, 4))
    storage.drop("masks")
    assert storage.get("masks").sum() == 32
