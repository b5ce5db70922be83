"""Profiler files: the allocator's history, a trace, a flame graph. Each from a run of its own."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from experiments.measure.timing import ForwardingObserver, observed
from propainter import InputError, Pipeline
from propainter.errors import is_out_of_memory
from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)

ARTIFACTS = ("memory_snapshot", "trace", "flame")
"""memory_snapshot.pickle: every allocation on the GPU with its stack, for torch's viewer (pytorch.org/memory_viz).
trace.json.gz: what ran when, on CPU and GPU, for chrome://tracing or Perfetto.
flame.txt: microseconds by stack, a line each, for flamegraph.pl or speedscope; device time on a GPU, else CPU time.
"""

MAX_HISTORY = 1_000_000
"""Allocations and frees that a memory snapshot keeps, the last ones."""

_FRAME_CHARACTERS = str.maketrans(" ;\t\n", "____")
_INSTANCE = re.compile(r"^(nn\.Module: .*)_\d+$")


def check_artifacts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names, each once, if all of them are artifacts.

    Raises:
        InputError: naming the first that is none.
    """
    if isinstance(names, str):
        raise InputError(f"measure.artifacts is {names!r}; give a list, as in measure.artifacts=[{names}]")
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in ARTIFACTS:
            raise InputError(f"measure.artifacts names {name!r}; give some of {', '.join(ARTIFACTS)}")
    return names


def make_artifacts(
    names: Iterable[str], pipeline: Pipeline, inputs: Sequence[Any], folder: Path
) -> dict[str, str | dict[str, str]]:
    """Run the pipeline once for each artifact and write it into the folder, whole or not at all.

    Args:
        names: some of `ARTIFACTS`.
        inputs: what the pipeline is called with.

    Returns:
        name -> file name, or {"reason": one sentence} where it can't be had here.

    Raises:
        InputError: an unknown name.
        OSError: the folder can't be written to, or the disk is full.
    """
    made: dict[str, str | dict[str, str]] = {}
    for name in check_artifacts(names):
        file, write = _WRITERS[name]
        try:
            if name == "memory_snapshot" and pipeline.networks.device.type != "cuda":
                raise _Impossible("torch keeps a history of allocations on CUDA only")
            with observed(pipeline, _StagesRecorded(pipeline.observer)), atomic_write(folder / file) as partial:
                write(pipeline, inputs, partial)
            made[name] = file
        except Exception as error:
            if isinstance(error, _Impossible):
                reason = str(error)
            elif is_out_of_memory(error):
                reason = "the run that was to make it is out of memory"
            else:
                raise
            log.warning("there is no %s: %s", name, reason)
            made[name] = {"reason": reason}
    return made


class _Impossible(RuntimeError):
    """This artifact can't be made here; the message gives the reason."""


def _write_memory_snapshot(pipeline: Pipeline, inputs: Sequence[Any], path: Path) -> None:
    torch.cuda.memory._record_memory_history(max_entries=MAX_HISTORY)
    try:
        pipeline(*inputs)
        torch.cuda.memory._dump_snapshot(str(path))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def _write_trace(pipeline: Pipeline, inputs: Sequence[Any], path: Path) -> None:
    profiler = _profiled(pipeline, inputs)
    profiler.export_chrome_trace(str(path))


def _write_flame(pipeline: Pipeline, inputs: Sequence[Any], path: Path) -> None:
    # Without `verbose` Kineto keeps the stacks to itself.
    config = torch._C._profiler._ExperimentalConfig(verbose=True)
    profiler = _profiled(pipeline, inputs, with_stack=True, experimental_config=config)
    on_gpu = pipeline.networks.device.type == "cuda"
    times: Counter[str] = Counter()
    for event in profiler.events():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if event.stack and spent > 0:
            times[";".join([*_frames(event.stack), _plain(event.name)])] += spent
    lines = [f"{stack} {round(spent)}\n" for stack, spent in times.items() if round(spent)]
    if not lines:
        raise _Impossible("torch's profiler gave no stacks")
    path.write_text("".join(lines))


def _frames(stack: Sequence[str]) -> Iterator[str]:
    """Yield a stack from the outside in, without torch's own frames and with modules by class."""
    for frame in reversed(stack):
        if not frame.startswith(("torch/", "<built-in ")):
            yield _plain(_INSTANCE.sub(r"\1", frame))


def _plain(name: str) -> str:
    return name.translate(_FRAME_CHARACTERS)


_WRITERS: dict[str, tuple[str, Callable[[Pipeline, Sequence[Any], Path], None]]] = {
    "memory_snapshot": ("memory_snapshot.pickle", _write_memory_snapshot),
    "trace": ("trace.json.gz", _write_trace),
    "flame": ("flame.txt", _write_flame),
}


def _profiled(pipeline: Pipeline, inputs: Sequence[Any], **options: Any) -> profile:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # Kineto reports its own starts and stops as errors
    if "cuda_graphs" in pipeline.effective:
        pipeline(*inputs)  # records the graphs that the profiled run replays
    with profile(activities=_activities(pipeline), **options) as profiler:
        pipeline(*inputs)
    return profiler


def _activities(pipeline: Pipeline) -> list[ProfilerActivity]:
    on_gpu = pipeline.networks.device.type == "cuda"
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]


class _StagesRecorded(ForwardingObserver):
    """Names the stages in what the profiler records."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with super().stage(name), record_function(name):
            yield
