"""Write one component as one file: ONNX, OpenVINO's or AOTInductor's."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from propainter.errors import InputError
from propainter.export.components import COMPONENTS
from propainter.export.description import KEY, Description
from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)

OPENVINO_FILES = ("model.xml", "model.bin")
"""OpenVINO's two files of a model, inside ours."""
_ONE_AT_A_TIME = Lock()
"""torch's exporters do not work in two threads at once."""


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
    program.model.metadata_props[KEY] = json.dumps(asdict(description))
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
        archive.writestr(f"{KEY}.json", json.dumps(asdict(description)))


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
        archive.writestr(f"{root}/extra/{KEY}.json", json.dumps(asdict(description)))


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
