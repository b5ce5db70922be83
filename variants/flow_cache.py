"""`flow_cache`: keep flows on disk, and read them for frames that had their flow estimated before."""

import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
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
from propainter.io.disk_cache import DiskLRUCache
from propainter.models.raft import Flows
from propainter.validation import above_0, check_number
from variants import UnsupportedError, claims_published
from variants.components import is_wrapped
from variants.precision import TF32_BACKENDS

log = logging.getLogger(__name__)

_FLOW_GROUPS = ("correlation", "raft_scale")
"""Keys of `effective` that flow estimators write."""


@claims_published
def disk(pipeline: Pipeline, folder: str | Path, max_gb: float = 8) -> Pipeline:
    """Keep flows in a folder. The key covers frames, weights, estimator, precision, device, versions and sources.

    `effective["flow_cache"]` has figures of all calls of the estimator: `hits`, `misses`, `cold_s` (seconds of all
    misses, null without one), `hit_s` (seconds of each hit), `avoided_s` (for each hit, the seconds that estimating the
    flow took), `kept` (number of written entries).

    Args:
        folder: made if it is missing. A folder that can't be written to is a warning, and no flow is kept.
        max_gb: bound of the folder in GiB. The entries used longest ago are removed first; a larger entry is not kept.

    Raises:
        InputError: `max_gb` is not above 0.
        UnsupportedError: the estimator has no identity.
    """
    check_number("flow_cache.max_gb", max_gb, above_0, "a number of GiB above 0")
    pipeline.caches_flow = True
    entries = DiskLRUCache(folder, int(max_gb * 2**30), ".safetensors")
    pipeline.flow_estimator = CachedFlow(pipeline.flow_estimator, pipeline.networks.raft, entries, pipeline.effective)
    return pipeline


class CachedFlow:
    """A flow estimator that keeps the flows of another.

    Args:
        inner: estimates flow that has no entry. `inner.identity` is text on what shapes its flow; where
            `inner.fell_back` is true, the last flow was estimated another way, and is not kept.
        network: RAFT with its final weights; None where the flow is estimated without it.
        entries: the kept flows.
        effective: gets `flow_cache`. An entry has the inner estimator's own report with it, which a hit writes here
            again with `from_cache`.

    Raises:
        UnsupportedError: the inner estimator has no identity.
    """

    def __init__(
        self, inner: FlowEstimator, network: nn.Module | None, entries: DiskLRUCache, effective: dict[str, Any]
    ) -> None:
        self.inner = inner
        self.network = network
        self.entries = entries
        self.effective = effective
        self.identity = getattr(inner, "identity", None)
        if not self.identity:
            raise UnsupportedError(
                f"flow_cache=disk needs a flow estimator with an `identity`, text on what shapes its flow; "
                f"{type(inner).__name__} has none"
            )
        self._sources = source_fingerprint(propainter, variants, *_users_modules(inner))
        self._weights: str | None = None
        self._stats: dict[str, Any] = {"hits": 0, "misses": 0, "cold_s": None, "hit_s": [], "avoided_s": [], "kept": 0}
        effective["flow_cache"] = self._stats

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """Read or estimate flow: frames [1, T, 3, H, W] in [-1, 1] -> flow_f and flow_b, each [1, T-1, 2, H, W].

        Flow is in pixels, on the frames' device.

        Raises:
            UnsupportedError: a module of RAFT is wrapped, so that its weights do not determine its output.
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
            kept = about["effective"].items()
            self.effective.update({group: {**report, "from_cache": True} for group, report in kept})
        report(frames.shape[1], frames.shape[1])
        stats["hits"] += 1
        stats["hit_s"].append(time.perf_counter() - start)
        stats["avoided_s"].append(about["estimate_s"])
        return flows

    def key(self, frames: Tensor) -> str:
        """Return a hash, 32 hex digits, of all that shapes the flow of these frames in the contexts entered now."""
        device = frames.device
        autocast = torch.is_autocast_enabled(device.type) and str(torch.get_autocast_dtype(device.type))
        # On the CPU the last bits depend on its instructions and on the number of threads that share a sum.
        on_cpu = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else (device.type, *on_cpu)
        tf32 = [backend.fp32_precision for backend in TF32_BACKENDS]
        if self._weights is None:
            self._weights = "no weights" if self.network is None else _weights(self.network)
        versions = torch.__version__, torchvision.__version__, self._sources
        parts = [self.identity, self._weights, autocast, tf32, name, *versions]
        return hashlib.sha256(repr([*parts, digest(frames)]).encode()).hexdigest()[:32]

    def _estimate(self, key: str, frames: Tensor, report: Callable[[int, int], None]) -> Flows:
        start = time.perf_counter()
        flows = self.inner(frames, report)
        flow_f, flow_b = (flow.cpu().contiguous() for flow in flows)
        estimate_s = time.perf_counter() - start
        if getattr(self.inner, "fell_back", False):
            log.warning("flow is not kept: another way than %s estimated it", self.identity)
            return flows
        if flow_f.nbytes + flow_b.nbytes > self.entries.max_bytes:
            log.warning("flows of %d MiB are not kept: flow_cache.max_gb is less", 2 * flow_f.nbytes / 2**20)
            return flows
        if flow_f.untyped_storage().data_ptr() == flow_b.untyped_storage().data_ptr():
            flow_f, flow_b = flow_f.clone(), flow_b.clone()  # safetensors takes no two tensors of one storage
        reports = {group: self.effective[group] for group in _FLOW_GROUPS if group in self.effective}
        about = {"effective": reports, "estimate_s": estimate_s}
        text = {"about": json.dumps(about), "digest": digest(flow_f, flow_b)}
        try:
            self.entries.write(key, lambda path: save_file({"flow_f": flow_f, "flow_b": flow_b}, path, text))
            self._stats["kept"] += 1
        except (OSError, SafetensorError) as error:
            folder = self.entries.folder
            log.warning("flows could not be kept in %s (%s); the next run estimates them again", folder, error)
        return flows


def _users_modules(estimator: Any) -> Iterator[ModuleType]:
    """Yield the modules outside propainter and variants that define an estimator and those inside it."""
    module = sys.modules.get(getattr(estimator, "__module__", None) or "")
    if module is not None and module.__name__.partition(".")[0] not in ("propainter", "variants"):
        yield from [module] if Path(getattr(module, "__file__", None) or "").is_file() else []
    for inside in ("inner", "published", "func"):
        if hasattr(estimator, inside):
            yield from _users_modules(getattr(estimator, inside))


def digest(*tensors: Tensor) -> str:
    """Return a hash, 64 hex digits, of the tensors' bytes, shapes and dtypes."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _weights(network: nn.Module) -> str:
    """Return a hash and the names of all tensors of a network that has no wrapped module."""
    for name, module in network.named_modules():
        if is_wrapped(module):
            raise UnsupportedError(
                f"flow_cache=disk can't identify RAFT's flows, because its {name or 'forward'} is wrapped; leave raft "
                "out of precision.dtypes and compile.components"
            )
    state = network.state_dict()
    return digest(*state.values()) + " ".join(state)


def _load(path: Path) -> tuple[Flows, dict[str, Any]]:
    """Read flows to the CPU, and the description kept with them.

    Raises:
        SafetensorError, KeyError, ValueError: the file is damaged.
    """
    with safe_open(path, "pt") as file:
        flows = file.get_tensor("flow_f"), file.get_tensor("flow_b")
        text = file.metadata() or {}
    if digest(*flows) != text["digest"]:
        raise ValueError("the flows are not those that were written")
    return flows, json.loads(text["about"])
