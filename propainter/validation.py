"""Check numbers from the command line."""

import math
from collections.abc import Callable

from propainter.errors import InputError


def check_number(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> None:
    """Check that an option's value is a finite number that `allowed` accepts.

    Args:
        name: the option's name, for the message.
        value: the option's value, of any type.
        allowed: test of a finite number.
        expected: description of the allowed numbers, which completes "give ...".

    Raises:
        InputError: `value` is no finite number, or `allowed` rejects it.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not allowed(value):
        raise InputError(f"{name} is {value!r}; give {expected}")


def check_whole(name: str, value: object, least: int) -> None:
    """Check that an option's value is a whole number of at least `least`.

    Raises:
        InputError: `value` is no whole number, or smaller.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least} instead")


def above_0(value: float) -> bool:
    """Return whether the value is above 0; a test for `check_number`."""
    return value > 0
