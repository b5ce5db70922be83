"""A machine with a GPU, as presets see it."""

import pytest
import torch

from variants.presets.by_device import compose_for


@pytest.fixture
def with_cuda(monkeypatch):
    """As on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    compose_for("auto")
    yield
    monkeypatch.undo()
    compose_for("auto")
