"""Triton's kernels without a GPU: interpreted on the CPU, and compiled for a GPU that need not be there.

A kernel is interpreted if TRITON_INTERPRET is set where it is decorated, and the interpreter changes triton.language.
So it has a process of its own.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest import mock


@contextmanager
def triton_interpreter() -> Iterator[Callable[..., Any]]:
    """Give a callable (function of a module, its arguments) that calls it where Triton interprets its kernels.

    Arguments and result are copies: a tensor that the function writes to stays as it is here.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(os.getpid).result()  # the process starts now

        def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return pickle.loads(pool.submit(_called, pickle.dumps((function, args, kwargs))).result())

        yield call


def _called(pickled: bytes) -> bytes:
    function, args, kwargs = pickle.loads(pickled)
    return pickle.dumps(function(*args, **kwargs))


def cubin(
    kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], capability: int, **options: Any
) -> bytes:
    """Compile a kernel for a GPU by Triton's own assembler.

    Args:
        kernel: a function under `triton.jit`.
        signature: type of each argument that is no constant, as "*fp16", "fp32" or "i32".
        constants: the other arguments.
        capability: 80 or 90, for example.
        options: of the launch, as `num_warps`.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    types = {**signature, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, dict(constants))
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
