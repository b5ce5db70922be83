"""`runtime`: compute components outside torch, from files that are exported at the first call of each shape.

A component that a runtime computes is the published one in float32: it knows no attention, correlation, reuse, kernels,
precision or compilation. Where one of these would be ignored the run is refused.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from propainter.errors import InputError
from propainter.export.components import module_of, take_over
from propainter.export.description import OPSET, SUFFIXES, check_opset, weights_hash
from propainter.export.files import import_openvino, require
from propainter.export.runners import PROVIDERS, aoti_runner, onnxruntime_runner, openvino_runner, torch_tensorrt_runner
from propainter.inference.pipeline import Pipeline
from propainter.io.disk_cache import DiskLRUCache
from propainter.io.paths import expand_home
from propainter.validation import above_0, check_number, check_whole
from variants import UnsupportedError, claims_published, needs_cuda
from variants.components import NO_RAFT, check_components, raft_of
from variants.runtime.component_call import ComponentCall, Runtime
from variants.runtime.ignored import ignored
from variants.runtime.stores import ExportCache, ExportedFolder, Store


@claims_published
def onnxruntime(
    pipeline: Pipeline,
    components: Sequence[str],
    provider: str = "auto",
    threads: int | None = None,
    opset: int = OPSET,
    **common: Any,
) -> Pipeline:
    """Compute components by onnxruntime from ONNX files; see `compute_by` for the common arguments and the report.

    Args:
        provider: "cpu", "cuda" or "tensorrt"; "auto": that of the networks' device.
        threads: of one operation on the CPU; None: as many as torch has.
        opset: ONNX's operator set, at least 19.

    Raises:
        InputError: an option is out of range, or another group's choice would be ignored.
        UnsupportedError: onnxruntime is not installed, or lacks the provider.
    """
    device = pipeline.networks.device.type
    if provider == "auto":
        provider = "cuda" if device == "cuda" else "cpu"
    if provider not in PROVIDERS:
        raise InputError(f"runtime.provider is {provider!r}; give auto, {', '.join(PROVIDERS)}")
    if (provider == "cpu") != (device == "cpu"):
        raise InputError(f"runtime.provider is {provider}, and the networks are on {device}; give auto")
    _check_threads(threads)
    check_opset("runtime.opset", opset)
    _installed("onnxruntime", "pip install 'propainter-bench[onnx]'")
    import onnxruntime as ort

    if PROVIDERS[provider] not in ort.get_available_providers():
        raise UnsupportedError(
            f"this onnxruntime has no {PROVIDERS[provider]}; pip install onnxruntime-gpu in place of onnxruntime"
        )
    index = pipeline.networks.device.index or 0
    runtime = Runtime(
        "onnxruntime",
        f"{ort.__version__} {PROVIDERS[provider]}",
        lambda path: onnxruntime_runner(path, provider, threads, index),
        opset=opset,
    )
    return compute_by(pipeline, runtime, components, **common)


@claims_published
def openvino(
    pipeline: Pipeline,
    components: Sequence[str],
    threads: int | None = None,
    **common: Any,
) -> Pipeline:
    """Compute components by OpenVINO on the CPU in float32; see `compute_by`.

    A component with an operation that OpenVINO lacks stays in torch; the report says which.

    Args:
        threads: None: as many as torch has.

    Raises:
        InputError: an option is out of range, or another group's choice would be ignored.
        UnsupportedError: OpenVINO is not installed, or the networks are not on the CPU.
    """
    _check_threads(threads)
    device = pipeline.networks.device.type
    if device != "cpu":
        raise UnsupportedError(f"runtime=openvino runs on the CPU, and the networks are on {device}; give device=cpu")
    _installed("openvino", "pip install 'propainter-bench[openvino]'")
    runtime = Runtime(
        "openvino", str(import_openvino().__version__), lambda path: openvino_runner(path, threads), format="openvino"
    )
    return compute_by(pipeline, runtime, components, **common)


@claims_published
def aoti(pipeline: Pipeline, components: Sequence[str], **common: Any) -> Pipeline:
    """Compute components by code that AOTInductor compiled for this device; see `compute_by`.

    Raises:
        InputError: an option is out of range, or another group's choice would be ignored.
    """
    runtime = Runtime("aoti", torch.__version__, aoti_runner, format="aoti")
    return compute_by(pipeline, runtime, components, **common)


@needs_cuda
def tensorrt(pipeline: Pipeline, components: Sequence[str], **common: Any) -> Pipeline:
    """Compute components by TensorRT, compiled by torch-tensorrt in each process; see `compute_by`.

    Raises:
        InputError: an option is out of range, or another group's choice would be ignored.
        UnsupportedError: the device is no CUDA device, or torch-tensorrt is not installed.
    """
    if pipeline.networks.device.type != "cuda":
        raise UnsupportedError("runtime=tensorrt needs a CUDA device; on the CPU give runtime=onnxruntime")
    release = ".".join(torch.__version__.split(".")[:2])
    _installed(
        "torch_tensorrt",
        f"pip install 'torch-tensorrt=={release}.*' (each of its releases wants torch of the same number), or give "
        "runtime=onnxruntime runtime.provider=tensorrt runtime.opset=19",
    )
    runtime = Runtime("tensorrt", _version("torch_tensorrt"), compile=torch_tensorrt_runner)
    return compute_by(pipeline, runtime, components, **common)


def _check_threads(threads: int | None) -> None:
    if threads is not None:
        check_whole("runtime.threads", threads, least=1)


def _installed(package: str, how: str) -> None:
    if find_spec(package) is None:
        raise UnsupportedError(f"{package} is not installed: {how}")


def _version(package: str) -> str:
    return str(getattr(import_module(package), "__version__", "unknown"))


def compute_by(
    pipeline: Pipeline,
    runtime: Runtime,
    components: Sequence[str],
    tolerance: float = 0.01,
    max_shapes: int = 32,
    files: str | Path | None = None,
    folder: str | Path = "~/.cache/propainter-bench/exported",
    max_gb: float = 8,
) -> Pipeline:
    """Let a runtime compute components.

    `effective["runtime"]` has the runtime's `name` and `version`, and for each of the `components`: `status` (the
    runtime's name, "not called", or why torch computes it), `files` (number that were used), `export_s` (0 where they
    were found), `build_s` (loading, the runtime's own compilation and the first call of each shape), `compare_s`
    (torch's calls to compare with), `largest_error` beside torch and `of`, the largest value there, and
    `calls_over_limit`, which torch computed.

    Args:
        components: some of `variants.components.COMPONENTS`.
        tolerance: largest error that is taken for rounding, as a share of the largest value, and of the whole.
        max_shapes: the most shapes of each component that are computed outside torch: each may be a file.
        files: folder of `python -m propainter.export`, which has to hold what is needed; None: files are exported, and
            kept in `folder`.
        folder: of the kept files.
        max_gb: bound of that folder in GiB.

    Raises:
        InputError: an option is out of range, another group's choice would be ignored, or files do not fit.
        UnsupportedError: a package that exports is not installed.
    """
    chosen = check_components(components, "runtime.components")
    if not chosen:
        raise InputError("runtime.components names nothing; give some, or runtime=torch")
    check_number("runtime.tolerance", tolerance, above_0, "a share above 0, such as 0.01")
    check_whole("runtime.max_shapes", max_shapes, least=1)
    check_number("runtime.max_gb", max_gb, above_0, "a number of GiB above 0")
    architecture = pipeline.networks.architecture
    given = ExportedFolder(expand_home(files)) if files is not None else None
    store: Store | None = given
    if given is None and runtime.load is not None:
        store = _cache(runtime, folder, max_gb)
    reports: dict[str, Any] = {}
    pipeline.effective["runtime"] = {"name": runtime.name, "version": runtime.version, "components": reports}
    # All modules are taken before the first is taken over: each still computes in torch.
    modules = {}
    for name in chosen:
        if name == "raft" and raft_of(pipeline, "runtime.components: raft") is None:
            reports[name] = {"status": NO_RAFT}
            continue
        if reason := ignored(pipeline, name):
            raise InputError(f"runtime={runtime.name} computes {name} as published, and {reason}")
        module = module_of(pipeline, name)
        assert module is not None
        if given is not None:
            given.check(name, runtime.format, architecture, weights_hash(module))
        modules[name] = module
    for name, module in modules.items():
        reports[name] = {"status": "not called", "files": 0, "export_s": 0.0, "build_s": 0.0, "compare_s": 0.0}
        reports[name] |= {"largest_error": 0.0, "of": 0.0, "calls_over_limit": 0}
        call = ComponentCall(name, module, runtime, store, architecture, tolerance, max_shapes, reports[name])
        take_over(pipeline, name, call, f"{runtime.name} {runtime.version}")
        pipeline.outside_torch[name] = runtime.name
    return pipeline


def _cache(runtime: Runtime, folder: str | Path, max_gb: float) -> ExportCache:
    try:
        require(runtime.format)
    except InputError as error:
        raise UnsupportedError(str(error)) from error
    return ExportCache(DiskLRUCache(folder, int(max_gb * 2**30), SUFFIXES[runtime.format]))
