"""Errors in a user's input, and the detection of an allocation that failed."""


class InputError(ValueError):
    """Report unusable input in one sentence: the value got, the value expected, the remedy."""


_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on the host
    "could not create a memory",  # oneDNN's
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: torch's on device or host, Python's, or numpy's."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    import torch  # lazy: a sweep's parent process must not import torch

    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)
