"""The one exception that speaks to the person who typed the command, and what counts as out of memory."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence: what was got, what was expected, what to do."""


_SIGNS = (
    "can't allocate memory",  # torch's allocator on the host
    "could not create a memory",  # oneDNN's
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch's on the device or on the host, or Python's own (numpy's too)."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    import torch  # takes seconds, where a sweep needs but the names of errors

    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)
