"""A stand-in for CUDA graphs, which runs the recorded call again on its static inputs."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from variants.cuda_capture import ExternalTensors


class Rerun:
    """Record as a CUDA graph does: outputs stay where they are, and a replay spoils those of all recordings.

    Attributes:
        calls: of the functions, while recording and in replays.
        failure: raised by the next recording.
        valid: whether recordings are still valid.
    """

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.valid, self.calls = failure, True, 0
        self._all: WeakSet[Rerun.Of] = WeakSet()

    def __call__(self, call: Callable[[], Any]) -> "Rerun.Of":
        if self.failure is not None:
            raise self.failure
        return Rerun.Of(self, call)

    class Of:
        def __init__(self, recorder: "Rerun", call: Callable[[], Any]) -> None:
            self._recorder, self._call = recorder, call
            self._outputs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self._run())
            recorder._all.add(self)

        def _run(self) -> Any:
            self._recorder.calls += 1
            with ExternalTensors():  # as a real recording is made: it must not change what is computed
                return self._call()

        def is_valid(self) -> bool:
            return self._recorder.valid

        def replay(self) -> Any:
            for x in tree_leaves([recording._outputs for recording in self._recorder._all]):
                x.fill_(torch.nan) if isinstance(x, Tensor) and x.is_floating_point() else None
            for static, new in zip(tree_leaves(self._outputs), tree_leaves(self._run()), strict=True):
                static.copy_(new) if isinstance(static, Tensor) else None
            return self._outputs
