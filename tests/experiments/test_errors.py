"""What exceptions during a run stand for, and what is logged of them."""

import pytest
import torch

from experiments.errors import LostProcessError, NonFiniteError, classify, log_failure
from propainter import InputError
from variants import UnsupportedError


@pytest.mark.parametrize(
    ("error", "status", "foreseen"),
    [
        (UnsupportedError("no such kernel here"), "unsupported", True),
        (NonFiniteError("stage flow gave"), "non_finite", True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out_of_memory", True),
        (MemoryError(), "out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", True),
        (InputError("wrong"), "failed", True),
        (LostProcessError("the process on cuda:1 was killed"), "failed", True),
        (OSError(28, "No space left on device"), "failed", True),
        (RuntimeError("shapes"), "failed", False),
        (ZeroDivisionError("division by zero"), "failed", False),
    ],
)
def test_errors_become_statuses(error, status, foreseen):
    got = classify(error)
    assert (got[0], got[2]) == (status, foreseen)
    assert got[1]
    assert "\n" not in got[1]


class TestLog:
    def test_an_expected_failure_has_no_stack(self, caplog):
        assert log_failure(InputError("wrong")) == ("failed", "wrong")
        assert caplog.text.rstrip().endswith("failed: wrong")

    def test_another_has(self, caplog):
        try:
            raise ZeroDivisionError("division by zero")
        except ZeroDivisionError as error:
            assert log_failure(error, "attention=sdpa") == ("failed", "ZeroDivisionError: division by zero")
        assert "attention=sdpa: ZeroDivisionError" in caplog.text and "Traceback" in caplog.text

    def test_a_row_states_its_expected_failure_itself(self, caplog):
        assert log_failure(UnsupportedError("no such kernel here"), "attention=sdpa")[0] == "unsupported"
        assert not caplog.text


@pytest.mark.parametrize(
    ("last", "status", "foreseen"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory", True),
        ("MemoryError", "out_of_memory", True),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", "out_of_memory", True),
        ("propainter.errors.InputError: wrong", "failed", True),
        ("KeyError: 'masks'", "failed", False),
    ],
)
def test_an_error_of_a_spawned_process_has_its_status(last, status, foreseen):
    text = (
        f"\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File x\n{last}\n"
    )
    found = classify(RuntimeError(text))
    assert (found[0], found[2]) == (status, foreseen)


def test_a_traceback_in_a_message_of_this_process_is_no_other_process():
    assert classify(RuntimeError("no kernel\nTraceback (most recent call last):\nKeyError: 1"))[1] == (
        "RuntimeError: no kernel"
    )


class Broken(torch.utils.data.Dataset):
    """Every item raises this error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> None:
        raise self.error

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("00001.jpg can't be read: mend it"), ("failed", "00001.jpg can't be read: mend it", True)),
        (UnsupportedError("no such kernel here"), ("unsupported", "no such kernel here", True)),
        (ZeroDivisionError("division"), ("failed", "ZeroDivisionError: division", False)),
    ],
)
def test_an_error_of_another_process_keeps_its_kind_and_its_sentence(error, expected):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(type(error)) as raised:
        next(iter(loader))
    status, reason, foreseen = classify(raised.value)
    assert (status, foreseen) == (expected[0], expected[2])
    assert reason.endswith(expected[1])
