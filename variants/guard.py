"""Use the published implementation from the first failure of a faster one on.

For what no test without the device can promise: a compiler, a kernel, a recorded graph.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from propainter.errors import InputError, is_out_of_memory
from variants import UnsupportedError


def guarded(
    fast: Callable[..., Any],
    published: Callable[..., Any],
    on_failure: Callable[[str], None],
    device_type: str | None = None,
) -> Callable[..., Any]:
    """Return a callable that calls `fast`, and `published` instead from the first failure of `fast` on.

    Out of memory, `InputError` and `UnsupportedError` are no failures in this sense: they are raised. An error of
    `published` in place of `fast` is raised too, and leaves `fast` in use: the inputs are at fault.

    Args:
        fast: must leave its arguments as they are where it fails.
        published: takes the same arguments and returns the same.
        device_type: of the tensors that `fast` takes; those elsewhere go to `published` (`fallback=ladder` moves the
            networks to the CPU for a while). None: any.
        on_failure: called once, with the kind of error and the first line of its message. It has to make the change
            visible, in a warning and in `Pipeline.effective`.
    """
    failed = False

    @wraps(published)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal failed
        if failed or (device_type and any(isinstance(x, Tensor) and x.device.type != device_type for x in args)):
            return published(*args, **kwargs)
        try:
            return fast(*args, **kwargs)
        except Exception as error:
            if isinstance(error, (InputError, UnsupportedError)) or is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
        # Outside the block above, in which the error would keep the tensors of the attempt alive.
        output = published(*args, **kwargs)
        failed = True
        on_failure(reason)
        return output

    return call


def recorded(function: Callable[..., Any], stats: dict[str, Any], name: str, by: str) -> Callable[..., Any]:
    """Return the function so that `stats[name]` is `by` from its first call that returns on.

    It writes at each call and never reads: torch.compile would compile again for another value.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        stats[name] = by
        return output

    return call


def first_line(error: object) -> str:
    """Return the first line of an error's message, or "no reason given"."""
    text = str(error).strip()
    return text.splitlines()[0] if text else "no reason given"
