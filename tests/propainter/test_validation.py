"""Checks of numbers: the message gives the name, the value and what to give instead."""

import pytest

from propainter import InputError
from propainter.validation import above_0, check_number, check_whole

NO_NUMBERS = ["lots", True, None, float("inf"), float("nan"), [1]]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, -0.5])
def test_a_wrong_number_is_refused(value):
    with pytest.raises(InputError) as error:
        check_number("group.size", value, above_0, "a size above 0")
    assert str(error.value) == f"group.size is {value!r}; give a size above 0"


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0, 1])
def test_a_wrong_whole_number_is_refused(value):
    with pytest.raises(InputError) as error:
        check_whole("group.count", value, 2)
    assert str(error.value) == f"group.count is {value!r}; give a whole number of at least 2 instead"


def test_allowed_numbers_pass():
    check_number("group.size", 0.5, above_0, "a size above 0")
    check_number("group.size", 3, above_0, "a size above 0")
    check_whole("group.count", 2, 2)
