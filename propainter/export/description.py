"""What an exported file says that it computes: the description that it carries."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

import propainter
from propainter.errors import InputError
from propainter.export.components import COMPONENTS
from propainter.fingerprint import source_fingerprint

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
KEY = "propainter"
"""Of the description in a file's own metadata."""


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

        return onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map[KEY]
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return {entry.key: entry.value for entry in model.metadata_props}[KEY]


def _archived_text(path: Path) -> str:
    with ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.rpartition("/")[2] == f"{KEY}.json")
        return archive.read(name).decode()
