"""Networks run without gradients, as in the published inference; and a process that interprets Triton's kernels."""

import pytest
import torch
from support.gpu.triton_interpreter import triton_interpreter


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def interpreted():
    """Call a function where Triton interprets its kernels; see `triton_interpreter`."""
    with triton_interpreter() as call:
        yield call
