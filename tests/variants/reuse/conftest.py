"""Networks run without gradients, as in the published inference."""

import pytest
import torch


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield
