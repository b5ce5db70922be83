"""Pipelines that processes of a test build for themselves."""

import os
import signal
import time
from dataclasses import replace

from support.narrow import narrow_networks

from propainter import InputError, Pipeline, Schedule

SHORT = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=2, subvideo_length=6)


def pipeline(device: str = "cpu") -> Pipeline:
    """The published pipeline over narrow networks."""
    return Pipeline(narrow_networks(), SHORT)


def without_raft(device: str = "cpu") -> Pipeline:
    """The same with flow by DIS, which takes each pair by itself."""
    return Pipeline(replace(narrow_networks(), raft=None), SHORT)


def refuses(device: str) -> Pipeline:
    """One that can't be built."""
    raise InputError("the weights of this process are damaged")


def dies(device: str) -> Pipeline:
    """One whose process is killed in flow completion."""

    def completion(*inputs):
        os.kill(os.getpid(), signal.SIGKILL)

    made = pipeline(device)
    made.networks.flow_completion.forward = completion
    return made


class DiesLate:
    """Build a pipeline without RAFT whose process is killed in its second window, once a file is there.

    Args:
        mark: path of the file.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, device: str) -> Pipeline:
        made = without_raft(device)
        published, calls = made.predictor, []

        def predictor(*inputs):
            predict = published(*inputs)

            def predict_or_die(window):
                calls.append(window)
                if len(calls) == 2:
                    end = time.monotonic() + 60
                    while not os.path.exists(self.mark) and time.monotonic() < end:
                        time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGKILL)
                return predict(window)

            return predict_or_die

        made.predictor = predictor
        return made


def runs_out(device: str) -> Pipeline:
    """One that is out of memory in flow completion."""

    def completion(*inputs):
        raise MemoryError("no memory left")

    made = pipeline(device)
    made.networks.flow_completion.forward = completion
    return made


class DiesOnce:
    """Build a pipeline whose process is killed in flow completion, the first time in all processes.

    Args:
        mark: path of a file that says that it has happened.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, device: str) -> Pipeline:
        made = without_raft(device)
        forward = made.networks.flow_completion.forward

        def completion(*inputs):
            try:
                os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return forward(*inputs)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        made.networks.flow_completion.forward = completion
        return made
