"""Checks of the numbers that come from the command line."""

import math
from collections.abc import Callable

from propainter.errors import InputError


def check_number(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> None:
    """See that an option is a number that it may be; `expected` says in words which.

    Raises:
        InputError: `value` is no finite number, or not an `allowed` one.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not allowed(value):
        raise InputError(f"{name} is {value!r}; give {expected}")


def check_whole(name: str, value: object, least: int) -> None:
    """See that an option is a whole number of at least `least`.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least} instead")


def above_0(value: float) -> bool:
    """For `check_number`."""
    return value > 0
