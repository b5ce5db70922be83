import pytest

from propainter import InputError
from variants import UnsupportedError
from variants.guard import guarded


class Calls:
    def __init__(self, error=None):
        self.error, self.count = error, 0

    def __call__(self, x):
        self.count += 1
        if self.error:
            raise self.error
        return x + 1


def test_fast_runs_while_it_works():
    published, reasons = Calls(), []
    call = guarded(Calls(), published, reasons.append)
    assert [call(1), call(2)] == [2, 3]
    assert published.count == 0 and reasons == []


def test_published_runs_from_the_first_failure_on():
    fast, published, reasons = Calls(RuntimeError("no kernel image\nlong trace")), Calls(), []
    call = guarded(fast, published, reasons.append)
    assert [call(1), call(2)] == [2, 3]
    assert (fast.count, published.count) == (1, 2)
    assert reasons == ["RuntimeError: no kernel image"]


def test_a_failure_without_a_message_has_a_reason():
    reasons = []
    guarded(Calls(RuntimeError()), Calls(), reasons.append)(1)
    assert reasons == ["RuntimeError: no reason given"]


@pytest.mark.parametrize(
    "error",
    [InputError("wrong"), UnsupportedError("not here"), MemoryError(), RuntimeError("CUDA error: out of memory")],
)
def test_errors_of_the_user_and_of_memory_are_raised(error):
    published, reasons = Calls(), []
    with pytest.raises(type(error)):
        guarded(Calls(error), published, reasons.append)(1)
    assert published.count == 0 and reasons == []


def test_where_published_fails_too_its_error_is_raised_and_fast_stays():
    fast, published, reasons = Calls(RuntimeError("fast")), Calls(ValueError("shape")), []
    call = guarded(fast, published, reasons.append)
    for _ in range(2):
        with pytest.raises(ValueError, match="shape"):
            call(1)
    assert (fast.count, published.count, reasons) == (2, 2, [])
