"""A small clip, and what measuring the published pipeline on it gave."""

import pytest

from experiments.data import LoadedClip, load, sample_clip
from experiments.measure.first_run import FirstRun, first_run
from experiments.measure.protocol import Timings, time_runs
from experiments.measure.timing import Options, inputs_of
from propainter import Pipeline, Schedule


@pytest.fixture(scope="session")
def clip() -> LoadedClip:
    return load(sample_clip(num_frames=2, height=128, width=128))


@pytest.fixture(scope="session")
def first(networks, clip) -> FirstRun:
    return first_run(Pipeline(networks, Schedule(raft_iterations=1)), clip)


@pytest.fixture(scope="session")
def timings(networks, clip) -> Timings:
    return time_runs(Pipeline(networks, Schedule(raft_iterations=1)), inputs_of(clip), Options(None, 2, 2, 100, 1))
