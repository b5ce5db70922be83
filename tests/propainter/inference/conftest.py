"""One published result for all tests of the inference."""

import numpy as np
import pytest
from support.clips import clip

from propainter import Pipeline, Schedule


@pytest.fixture(scope="session")
def result(networks) -> np.ndarray:
    """The small clip, inpainted by the published pipeline with one update of RAFT."""
    return Pipeline(networks, Schedule(raft_iterations=1))(*clip())
