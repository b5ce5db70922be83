"""One clip over two processes: the result of one, and what is said where a process ends."""

import numpy as np
import pytest
import torch
from support import devices
from support.clips import clip
from support.reusing import hole_psnr

from experiments.errors import LostProcessError
from experiments.system import device_group as device_group_module
from experiments.system.device_group import check_devices, device_group
from propainter import InputError
from variants import chunking

CPUS = [torch.device("cpu")] * 2


def over_two(own=devices.pipeline, build=None, on_frames=None):
    """The result over two processes; `own` builds the first one's pipeline, `build` the other's."""
    with device_group(CPUS, build or own) as group:
        group.on_frames = on_frames
        pipeline = group.spread(own())
        return pipeline(*clip(9)), pipeline.effective["devices"]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_result_is_that_of_one_device(one_thread):
    """Bit by bit: two padded sub-videos in two directions, five windows."""
    given = []
    result, report = over_two(devices.without_raft, on_frames=given.append)
    assert np.array_equal(result, devices.without_raft()(*clip(9)))
    assert report["devices"] == ["cpu", "cpu"] and len(report["peak_bytes"]) == 2
    assert report["most_speedups"] == {"flow": 2.0, "completion": 2.0, "propagation": 1.0, "generation": 5 / 3}
    assert len(given) == 4 and np.array_equal(np.concatenate(given), result)  # the second window fills frame 0 too
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_raft_on_batches_of_other_sizes_differs_by_rounding(one_thread):
    assert hole_psnr(over_two()[0], devices.pipeline()(*clip(9)), clip(9)[1]) > 60


@pytest.mark.slow
def test_chunks_are_shared_out_one_by_one(one_thread):
    def chunked(device="cpu"):
        return chunking.fixed(devices.without_raft(), size=5, overlap=1)

    assert np.array_equal(over_two(chunked, devices.without_raft)[0], chunked()(*clip(9)))


@pytest.mark.slow
def test_what_was_finished_before_a_process_died_has_been_handed_on(one_thread, tmp_path):
    given, mark = [], tmp_path / "third"

    def keep(images):
        given.append(images)
        if len(given) == 3:  # two of this process, one of the other
            mark.touch()

    with pytest.raises(LostProcessError, match=r"\(number 2 of 2\) was killed by signal 9"):
        over_two(devices.without_raft, devices.DiesLate(str(mark)), keep)
    expected = devices.without_raft()(*clip(9))
    assert len(given) == 3 and np.array_equal(np.concatenate(given), expected[: sum(map(len, given))])


@pytest.mark.slow
def test_an_error_where_frames_are_handed_on_is_itself(one_thread):
    def full(images):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        over_two(devices.without_raft, on_frames=full)


def test_of_several_errors_that_of_the_lost_process_is_told():
    """The others follow from an exchange that failed."""
    failed = device_group_module._error(1, CPUS[0], "RuntimeError", "Connection closed by peer")
    foreseen = device_group_module._error(2, CPUS[0], "InputError", "wrong")
    lost = LostProcessError("the process on cpu (number 4 of 4) was killed by signal 9")
    assert min([failed, foreseen, lost], key=device_group_module._rank) is lost
    assert min([failed, foreseen], key=device_group_module._rank) is foreseen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "kind", "says"),
    [
        (
            devices.dies,
            LostProcessError,
            r"the process on cpu \(number 2 of 2\) was killed by signal 9, and the run with it",
        ),
        (devices.refuses, InputError, "the weights of this process are damaged"),
        (devices.runs_out, MemoryError, "no memory left"),
    ],
)
def test_a_process_that_ends_is_a_sentence(build, kind, says):
    with pytest.raises(kind, match=says):
        over_two(build=build)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "give a list such as"),
        ("cuda:0", "devices is 'cuda:0'; give a list"),
        ({"cpu": 2}, "devices is {'cpu': 2}; give a list"),
        (["gpu"], "device is 'gpu'"),
        (["cpu"] * 999, "devices has 999 processes for"),
    ],
)
def test_wrong_lists(given, says):
    with pytest.raises(InputError, match=says):
        check_devices(given)


def test_no_list_is_no_group():
    assert check_devices(None) is None
