"""`flow_cache`: flows of frames that have been seen before come from disk."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import propainter
import variants
from propainter.fingerprint import source_fingerprint
from propainter.inference.pipeline import FlowEstimator, Pipeline
from propainter.io.atomic import DiskLRUCache
from propainter.models.raft import Flows
from propainter.validation import above_0, check_number
from variants import UnsupportedError, claims_published
from variants.components import is_wrapped
from variants.precision import TF32_BACKENDS

log = logging.getLogger(__name__)

_OF_THE_FLOW = ("correlation", "raft_scale")


@claims_published
def disk(pipeline: Pipeline, folder: str | Path, max_gb: float = 8) -> Pipeline:
    """Keep flows in a folder, by all that shapes them: frames, weights, estimator, precision, device and code.

    `effective["flow_cache"]` counts calls of the estimator over all runs: `hits`, `misses`, `cold_s` (seconds of the
    misses together, null without one), `hit_s` (seconds of each hit), `avoided_s` (for each hit, what its flow took
    when it was estimated), `kept` (how many entries were written).

    Args:
        folder: made where it is missing; a folder that can't be written to is a warning, and nothing is kept.
        max_gb: bound of the folder in GiB; entries used longest ago go first, one larger than this is not kept.

    Raises:
        InputError: `max_gb` is not above 0.
        Unsupported: the estimator does not say what shapes its flow.
    """
    check_number("flow_cache.max_gb", max_gb, above_0, "a number of GiB above 0")
    pipeline.caches_flow = True
    entries = DiskLRUCache(folder, int(max_gb * 2**30), ".safetensors")
    pipeline.flow_estimator = CachedFlow(pipeline.flow_estimator, pipeline.networks.raft, entries, pipeline.effective)
    return pipeline


class CachedFlow:
    """A flow estimator whose flows are kept.

    Args:
        inner: estimates what is not there; `inner.identity` says in words what shapes its flow.
        network: RAFT, with the weights it will have.
        entries: where flows are kept.
        effective: where `flow_cache` is written. What the inner estimator writes there about itself is kept with an
            entry, and said again on a hit, with `from_cache`.

    Raises:
        Unsupported: the inner estimator has no identity.
    """

    def __init__(
        self, inner: FlowEstimator, network: nn.Module, entries: DiskLRUCache, effective: dict[str, Any]
    ) -> None:
        self.inner = inner
        self.network = network
        self.entries = entries
        self.effective = effective
        self.identity = getattr(inner, "identity", None)
        if not self.identity:
            raise UnsupportedError(
                f"flow_cache=disk needs a flow estimator that says what shapes its flow; {type(inner).__name__} has no "
                "`identity`"
            )
        self._sources = source_fingerprint(propainter, variants)
        self._weights: str | None = None
        self._stats = {"hits": 0, "misses": 0, "cold_s": None, "hit_s": [], "avoided_s": [], "kept": 0}
        effective["flow_cache"] = self._stats

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """[1, T, 3, H, W] in [-1, 1] -> flow_f and flow_b, each [1, T-1, 2, H, W] in pixels, on the frames' device.

        Raises:
            Unsupported: RAFT's modules are wrapped, so that what they compute can't be told from their weights.
        """
        start, stats = time.perf_counter(), self._stats
        key = self.key(frames)
        entry = self.entries.read(key, _load, damage=(SafetensorError, KeyError, ValueError))
        if entry is None:
            flows = self._estimate(key, frames, report)
            stats["misses"] += 1
            stats["cold_s"] = (stats["cold_s"] or 0.0) + time.perf_counter() - start
            return flows
        (flow_f, flow_b), about = entry
        flows = flow_f.to(frames.device), flow_b.to(frames.device)
        if not stats["misses"]:
            self.effective.update({group: {**seen, "from_cache": True} for group, seen in about["effective"].items()})
        report(frames.shape[1], frames.shape[1])
        stats["hits"] += 1
        stats["hit_s"].append(time.perf_counter() - start)
        stats["avoided_s"].append(about["estimate_s"])
        return flows

    def key(self, frames: Tensor) -> str:
        """Hex digits over all that shapes the flow of these frames, in the contexts that are entered now."""
        device = frames.device
        autocast = torch.is_autocast_enabled(device.type) and str(torch.get_autocast_dtype(device.type))
        # On the CPU the last bits go with the instructions it has, and with how a sum is split over threads.
        on_cpu = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else (device.type, *on_cpu)
        tf32 = [backend.fp32_precision for backend in TF32_BACKENDS]
        if self._weights is None:
            self._weights = _weights(self.network)
        versions = torch.__version__, torchvision.__version__, self._sources
        parts = [self.identity, self._weights, autocast, tf32, name, *versions]
        return hashlib.sha256(repr([*parts, digest(frames)]).encode()).hexdigest()[:32]

    def _estimate(self, key: str, frames: Tensor, report: Callable[[int, int], None]) -> Flows:
        start = time.perf_counter()
        flows = self.inner(frames, report)
        flow_f, flow_b = (flow.cpu().contiguous() for flow in flows)
        estimate_s = time.perf_counter() - start
        if flow_f.nbytes + flow_b.nbytes > self.entries.max_bytes:
            log.warning("flows of %d MiB are not kept: flow_cache.max_gb is less", 2 * flow_f.nbytes / 2**20)
            return flows
        if flow_f.untyped_storage().data_ptr() == flow_b.untyped_storage().data_ptr():
            flow_f, flow_b = flow_f.clone(), flow_b.clone()  # safetensors takes no two tensors of one storage
        seen = {group: self.effective[group] for group in _OF_THE_FLOW if group in self.effective}
        about = {"effective": seen, "estimate_s": estimate_s}
        text = {"about": json.dumps(about), "digest": digest(flow_f, flow_b)}
        try:
            self.entries.write(key, lambda path: save_file({"flow_f": flow_f, "flow_b": flow_b}, path, text))
            self._stats["kept"] += 1
        except (OSError, SafetensorError) as error:
            folder = self.entries.folder
            log.warning("flows could not be kept in %s (%s); the next run estimates them again", folder, error)
        return flows


def digest(*tensors: Tensor) -> str:
    """Hex digits over the tensors' bytes, shapes and dtypes."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def _weights(network: nn.Module) -> str:
    """Over all tensors of a network whose modules compute what their classes say."""
    for name, module in network.named_modules():
        if is_wrapped(module):
            raise UnsupportedError(
                f"flow_cache=disk can't tell what flows RAFT gives, because its {name or 'forward'} is wrapped; leave "
                "raft out of precision.dtypes and compile.components"
            )
    state = network.state_dict()
    return digest(*state.values()) + " ".join(state)


def _load(path: Path) -> tuple[Flows, dict[str, Any]]:
    """Flows on the CPU, and what is said about them.

    Raises:
        SafetensorError, KeyError, ValueError: the file is damaged.
    """
    with safe_open(path, "pt") as file:
        flows = file.get_tensor("flow_f"), file.get_tensor("flow_b")
        text = file.metadata() or {}
    if digest(*flows) != text["digest"]:
        raise ValueError("the flows are not those that were written")
    return flows, json.loads(text["about"])
