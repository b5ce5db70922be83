"""Run an exported file: a callable of torch tensors for each runtime."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from propainter.errors import InputError
from propainter.export.components import Call
from propainter.export.description import read_description
from propainter.export.files import OPENVINO_FILES, export_program, exporting, import_openvino

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""onnxruntime's execution providers by our names."""

PACKAGES = {
    "onnxruntime": "pip install 'propainter-bench[onnx]'",
    "openvino": "pip install 'propainter-bench[openvino]'",
    "torch_tensorrt": "pip install torch-tensorrt",
}
"""What each runtime is installed by."""


def onnxruntime_runner(path: Path, provider: str = "cpu", threads: int | None = None, index: int = 0) -> Call:
    """Load an ONNX file into onnxruntime, in float32 without TF32.

    Args:
        path: the file.
        provider: "cpu", "cuda" or "tensorrt"; what it can't run goes to CUDA and then to the CPU.
        threads: of one operation; None: as many as torch has.
        index: of the CUDA device.

    Raises:
        InputError: onnxruntime is not installed.
        RuntimeError: it can't use the provider.
    """
    ort = _imported("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # its arena keeps the memory of the largest call
    of_provider = {
        "cpu": {},
        "cuda": {"device_id": index, "use_tf32": 0},
        "tensorrt": {"device_id": index},
    }
    order = {"cpu": ["cpu"], "cuda": ["cuda", "cpu"], "tensorrt": ["tensorrt", "cuda", "cpu"]}[provider]
    providers = [(PROVIDERS[name], of_provider[name]) for name in order]
    session = ort.InferenceSession(str(path), options, providers=providers)
    if PROVIDERS[provider] not in session.get_providers():
        raise RuntimeError(f"onnxruntime could not load {PROVIDERS[provider]}")
    all_names = list(read_description(path).inputs)  # the session's own list lacks inputs that nothing reads
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = dict(zip(all_names, inputs, strict=True))
        if inputs[0].device.type == "cpu":
            arrays = {name: given[name].contiguous().numpy() for name in names}
            return torch.from_numpy(session.run(None, arrays)[0])
        return _run_bound(session, {name: given[name].contiguous() for name in names})

    return run


def _run_bound(session: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Run on tensors of the GPU, where they are; the output comes back there."""
    binding = session.io_binding()
    for name, x in inputs.items():
        dtype = np.dtype(str(x.dtype).removeprefix("torch."))
        binding.bind_input(name, "cuda", x.device.index or 0, dtype, tuple(x.shape), x.data_ptr())
    output = session.get_outputs()[0].name
    device = next(iter(inputs.values())).device
    binding.bind_output(output, "cuda", device.index or 0)
    torch.cuda.current_stream(device).synchronize()
    session.run_with_iobinding(binding)
    return torch.from_dlpack(binding.get_outputs()[0]).clone()


def openvino_runner(path: Path, threads: int | None = None) -> Call:
    """Load a file into OpenVINO on the CPU, in float32.

    Args:
        path: the file.
        threads: None: as many as torch has.

    Raises:
        InputError: OpenVINO is not installed.
    """
    _check_installed("openvino")
    core = _openvino_core()
    with ZipFile(path) as archive:
        text, weights = (archive.read(name) for name in OPENVINO_FILES)
    model = core.read_model(text, weights)
    # Without the first it computes in bfloat16 on processors that have it.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
    compiled: dict[tuple[torch.Size, ...], Any] = {}

    def run(*inputs: Tensor) -> Tensor:
        shapes = tuple(x.shape for x in inputs)
        if shapes not in compiled:
            # For these shapes alone: its passes over windows and heads fail on dimensions that it does not know.
            fixed = model.clone()
            fixed.reshape({number: list(shape) for number, shape in enumerate(shapes)})
            compiled[shapes] = core.compile_model(fixed, "CPU", options)
        result = compiled[shapes]([x.contiguous().numpy() for x in inputs])
        return torch.from_numpy(result[0].copy())

    return run


@cache
def _openvino_core() -> Any:
    """Return OpenVINO's core, one for the life of this process.

    Its CPU plugin gives the thread that makes it a stack for signal handlers. The plugin's last user unmaps that
    stack, in whatever thread it ends (https://github.com/openvinotoolkit/openvino/pull/11894). The next signal that is
    handled, such as a child's end, would then crash the process.
    """
    return import_openvino().Core()


def aoti_runner(path: Path) -> Call:
    """Load AOTInductor's package."""
    import torchvision  # noqa: F401  registers deform_conv2d
    from torch._inductor import aoti_load_package

    loaded: Any = aoti_load_package(str(path))

    def run(*inputs: Tensor) -> Tensor:
        output = loaded(*(x.contiguous() for x in inputs))
        return output[0] if isinstance(output, (tuple, list)) else output

    return run


def torch_tensorrt_runner(component: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """Compile a component by torch-tensorrt, in this process and for it alone.

    Args:
        component: its name.
        module: the component in torch, on a CUDA device.
        inputs: as it takes them.
    """
    torch_tensorrt = _imported("torch_tensorrt")
    with exporting():
        examples = tuple(x.clone() for x in inputs)
        # For these shapes alone: it builds an engine for a range of sizes only where their bounds are known.
        exported = export_program(component, module, examples, dynamic=False)
        compiled: Any = torch_tensorrt.dynamo.compile(exported, arg_inputs=list(examples))

    def run(*inputs: Tensor) -> Tensor:
        output = compiled(*(x.contiguous() for x in inputs))
        return output[0] if isinstance(output, (tuple, list)) else output

    return run


def _imported(package: str) -> Any:
    _check_installed(package)
    return import_module(package)


def _check_installed(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{package} is not installed; install it with {PACKAGES[package]}")
