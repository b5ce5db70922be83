"""Write one component as one file (ONNX, OpenVINO's, AOTInductor's), and read what such a file says of itself."""

import hashlib
import json
import logging
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

import propainter
from propainter.errors import InputError
from propainter.export.components import COMPONENTS
from propainter.fingerprint import source_fingerprint
from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)

FORMATS = ("onnx", "openvino", "aoti")
READERS = {"onnx": "runtime=onnxruntime", "openvino": "runtime=openvino", "aoti": "runtime=aoti"}
"""The option that reads a format."""
_EXPORTERS = {
    "onnx": ("torchvision", "onnx", "onnxscript"),
    "openvino": ("torchvision", "openvino"),
    "aoti": ("torchvision",),
}
SUFFIXES = {"onnx": ".onnx", "openvino": ".zip", "aoti": ".pt2"}
LEAST_OPSET = 19
"""The first operator set with DeformConv; before it the exporter writes a file that no runtime accepts."""
OPSET = 20
"""The default operator set: GridSample's names are those of today since 20."""
MANIFEST = "manifest.json"
"""The list of files that `python -m propainter.export` writes beside them."""
OPENVINO_FILES = ("model.xml", "model.bin")
"""OpenVINO's two files of a model, inside ours."""
_KEY = "propainter"
_ONE_AT_A_TIME = Lock()
"""torch's exporters do not work in two threads at once."""


@dataclass(frozen=True)
class Description:
    """Say what an exported file computes; the file carries it.

    Attributes:
        component: a key of `COMPONENTS`.
        format: one of `FORMATS`.
        inputs: input -> shape, with names for dimensions that may differ.
        dtypes: input -> dtype.
        architecture: of the networks.
        weights: hash of the component's weights, 16 hex digits.
        settings: what else shapes the computation, such as RAFT's updates.
        opset: of ONNX; None for another format.
        device: for compiled code what it is compiled for; None where the file runs on any.
        torch: version that exported it.
        exporters: package -> version of what else wrote it.
        code: hash of this package's sources, 16 hex digits.
    """

    component: str
    format: str
    inputs: dict[str, list[int | str]]
    dtypes: dict[str, str]
    architecture: str
    weights: str
    settings: dict[str, Any]
    opset: int | None
    device: str | None
    torch: str
    exporters: dict[str, str]
    code: str

    @property
    def key(self) -> str:
        """Return a name for the file: the component, and a hash of everything here."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.component}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def changed(self, **fields: Any) -> "Description":
        """Return the description with other fields."""
        return replace(self, **fields)

    def unlike(self, other: "Description") -> str | None:
        """Return in what another file can't stand in for this one, as a clause; None where it can.

        The versions of what exported it and the sources may differ: a file runs without them. Compiled code runs with
        its own torch alone.
        """
        if self.format != other.format:
            return f"it is a file for {READERS[other.format]}; give that runtime, or export with --to {self.format}"
        if self.format == "aoti" and (self.device, self.torch) != (other.device, other.torch):
            return (
                f"it is compiled for {other.device} and torch {other.torch}, and this is {self.device} and {self.torch}"
            )
        if self.component != other.component:
            return f"it computes {other.component}, not {self.component}"
        if self.architecture != other.architecture:
            return (
                f"it is of the {other.architecture} architecture, and these networks are of the {self.architecture} one"
            )
        if self.weights != other.weights:
            return f"it holds other weights ({other.weights}, and these networks have {self.weights})"
        if self.settings != other.settings:
            return f"it was exported with {_said(other.settings)}, and this run has {_said(self.settings)}"
        wrong = [name for name, shape in self.inputs.items() if other.inputs.get(name) != shape]
        if wrong or self.dtypes != other.dtypes:
            name = wrong[0] if wrong else next(iter(self.inputs))
            return f"it takes {name} of {other.inputs.get(name)}, and this run has {self.inputs[name]}"
        return None


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "no settings"


def describe(
    component: str,
    module: nn.Module,
    inputs: Sequence[Tensor],
    architecture: str,
    file_format: str = "onnx",
    opset: int = OPSET,
) -> Description:
    """Return the description of a component for inputs like these.

    Args:
        component: its name.
        module: from `module_of`.
        inputs: tensors as the component takes them.
        architecture: of the networks.
        file_format: one of `FORMATS`.
        opset: for ONNX; other formats have none.

    Raises:
        InputError: the format is unknown, or the operator set is older than `LEAST_OPSET`.
    """
    if file_format not in FORMATS:
        raise InputError(f"the format is {file_format!r}; give one of {', '.join(FORMATS)}")
    if file_format == "onnx":
        check_opset("opset", opset)
    iterations, names = getattr(module, "iterations", None), COMPONENTS[component].inputs
    return Description(
        component=component,
        format=file_format,
        inputs=COMPONENTS[component].shape_names(inputs),
        dtypes={name: str(x.dtype).removeprefix("torch.") for name, x in zip(names, inputs, strict=True)},
        architecture=architecture,
        weights=weights_hash(module),
        settings={} if iterations is None else {"raft_iterations": iterations},
        opset=opset if file_format == "onnx" else None,
        device=compiled_for(inputs[0].device) if file_format == "aoti" else None,
        torch=torch.__version__,
        exporters={name: version(name) for name in _EXPORTERS[file_format] if find_spec(name) is not None},
        code=source_fingerprint(propainter)[:16],
    )


def compiled_for(device: torch.device) -> str:
    """Return what compiled code depends on: the processor's instructions and the threads, or the GPU's capability."""
    if device.type == "cuda":
        return f"cuda {torch.version.cuda}, capability {torch.cuda.get_device_capability(device)}"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} with {kind}, {torch.get_num_threads()} threads"


def check_opset(option: str, opset: object) -> None:
    """Check that an ONNX operator set has what the components need.

    Raises:
        InputError: it is older than `LEAST_OPSET`, or no whole number.
    """
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < LEAST_OPSET:
        raise InputError(
            f"{option} is {opset!r}; give {LEAST_OPSET} or newer: older operator sets have no DeformConv, and no "
            "runtime accepts the file"
        )


def weights_hash(module: nn.Module) -> str:
    """Return a hash of a module's weights, 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write(description: Description, module: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    """Export a component to a file, atomically.

    Args:
        description: from `describe` of the same module and inputs.
        module: the component in torch.
        inputs: as the component takes them; their values are not kept.
        path: the file.

    Raises:
        InputError: a package for the format is not installed. Exceptions of torch's exporters pass through.
    """
    require(description.format)
    with _ONE_AT_A_TIME, exporting(), atomic_write(path) as partial:
        examples = example_inputs(description.component, inputs)
        writers = {"onnx": _write_onnx, "openvino": _write_openvino, "aoti": _write_aoti}
        writers[description.format](description, module, examples, partial)


def require(file_format: str) -> None:
    """Check that the packages are there that write a format.

    Raises:
        InputError: one is not; the message says what to install.
    """
    for package in {"onnx": ("onnx", "onnxscript"), "openvino": ("openvino",)}.get(file_format, ()):
        if find_spec(package) is None:
            how = f"pip install 'propainter-bench[{file_format}]'"
            raise InputError(f"export to {file_format} needs {package}; install it with {how}")


LEAST_EXAMPLE = 4
"""Smallest size of what may differ, in an exporter's example: it fixes 0 and 1, and every second of 2 frames is 1."""


def example_inputs(component: str, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return ordinary tensors like the inputs, for an exporter.

    What may differ has at least `LEAST_EXAMPLE`, by repetition, and each dimension's name a size of its own: an
    exporter would take equal sizes for one.
    """
    dynamic, names = COMPONENTS[component].dynamic, COMPONENTS[component].inputs
    sizes: dict[str, int] = {}
    for name, x in zip(names, inputs, strict=True):
        for dim, what in dynamic.get(name, {}).items():
            if what not in sizes:
                sizes[what] = max(x.shape[dim], LEAST_EXAMPLE)
                while list(sizes.values()).count(sizes[what]) > 1:
                    sizes[what] += 1
    examples = []
    for name, x in zip(names, inputs, strict=True):
        x = x.clone()
        for dim, what in dynamic.get(name, {}).items():
            x = x.index_select(dim, torch.arange(sizes[what], device=x.device) % x.shape[dim])
        examples.append(x)
    return tuple(examples)


def export_program(
    component: str, module: nn.Module, inputs: Sequence[Tensor], dynamic: bool = True
) -> torch.export.ExportedProgram:
    """Return the component as torch's exported program; call it outside inference mode, with `example_inputs`.

    Args:
        component: its name.
        module: the component in torch.
        inputs: as it takes them.
        dynamic: whether what may differ from call to call may; else all shapes are those of the inputs.
    """
    shapes = _dynamic_shapes(COMPONENTS[component].shape_names(inputs)) if dynamic else None
    return torch.export.export(
        module, tuple(inputs), dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
    )


def _dynamic_shapes(inputs: Mapping[str, Sequence[int | str]]) -> tuple[dict[int, Any], ...]:
    names = {name for shape in inputs.values() for name in shape if isinstance(name, str)}
    dims = {name: torch.export.Dim(name) for name in names}
    return tuple(
        {dim: dims[name] for dim, name in enumerate(shape) if isinstance(name, str)} for shape in inputs.values()
    )


def _write_onnx(description: Description, module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    component = COMPONENTS[description.component]
    # Given a module, torch.onnx.export would fall back to fixed shapes without a word.
    program: Any = torch.onnx.export(
        export_program(description.component, module, inputs),
        dynamo=True,
        opset_version=description.opset,
        input_names=list(component.inputs),
        output_names=[component.output],
        verbose=False,
        optimize=False,  # the runtimes optimise; here it takes most of the time
    )
    program.model.metadata_props[_KEY] = json.dumps(asdict(description))
    program.save(str(path), external_data=False)


def _write_openvino(description: Description, module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Write OpenVINO's two files as one, not compressed.

    They come from torch's program: there OpenVINO reads deformable convolution, and in ONNX it has none.
    """
    openvino = import_openvino()
    model = openvino.convert_model(export_program(description.component, module, inputs))
    with TemporaryDirectory() as folder, ZipFile(path, "w") as archive:
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)
        for name in OPENVINO_FILES:
            archive.write(Path(folder) / name, name)
        archive.writestr(f"{_KEY}.json", json.dumps(asdict(description)))


def import_openvino() -> Any:
    """Return the module openvino, without its telemetry and with the streams of this process left open.

    The telemetry sends each conversion to OpenVINO's maker, and forks this process for it, with all that it has open.
    OpenVINO imports absl's logging too, whose handler closes the stream that was sys.stderr at its import once logging
    is set up anew.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    if (absl_logging := sys.modules.get("absl.logging")) is not None:
        absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    return openvino


def _write_aoti(description: Description, module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    exported = export_program(description.component, module, inputs)
    aoti_compile_and_package(exported, package_path=str(path))
    with ZipFile(path, "a") as archive:  # to be read without loading the code
        root = archive.namelist()[0].split("/")[0]  # torch refuses files outside it
        archive.writestr(f"{root}/extra/{_KEY}.json", json.dumps(asdict(description)))


def read_description(path: Path) -> Description:
    """Return what a file says that it computes.

    Raises:
        InputError: there is no such file, it can't be read, or it does not say so.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there; give a file that python -m propainter.export wrote")
    try:
        text = _onnx_text(path) if path.suffix == SUFFIXES["onnx"] else _archived_text(path)
        return Description(**json.loads(text))
    except (KeyError, ValueError, TypeError, RuntimeError, OSError, BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} does not say what it computes ({reason}): it is damaged, or not written by python -m "
            "propainter.export; export it again"
        ) from None


def _onnx_text(path: Path) -> str:
    if find_spec("onnx") is None:  # to run a file onnxruntime is enough
        import onnxruntime

        return onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map[_KEY]
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return {entry.key: entry.value for entry in model.metadata_props}[_KEY]


def _archived_text(path: Path) -> str:
    with ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.rpartition("/")[2] == f"{_KEY}.json")
        return archive.read(name).decode()


@contextmanager
def exporting() -> Iterator[None]:
    """Let torch's exporters work inside the block, whatever mode and flags it is in."""
    # torch's exporters read its older flag for TF32, and fail where these two differ from it.
    backends: list[Any] = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32"
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporters' own notes: none is of use to somebody who asked for a file."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
