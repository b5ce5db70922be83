"""Checks of the numbers that a variant's options take from the command line."""

import math
from collections.abc import Callable

from propainter import InputError


def check_number(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> None:
    """Raises:
    InputError: `value` is no finite number, or not an `allowed` one; the sentence ends in `expected`.
    """
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not allowed(value):
        raise InputError(f"{name} is {value!r}; give {expected}")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises:
    InputError: `value` is no whole number, or under `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least} instead")


def above_0(value: float) -> bool:
    return value > 0
