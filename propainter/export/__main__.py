"""`python -m propainter.export`: write components as files, each compared with torch."""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propainter.errors import InputError
from propainter.export.components import COMPONENTS, Call, take_over
from propainter.export.description import FORMATS, MANIFEST, OPSET, SUFFIXES, Description, check_opset, describe
from propainter.export.files import require, write
from propainter.export.probe import Recorder, probe_clip
from propainter.export.runners import aoti_runner, onnxruntime_runner, openvino_runner
from propainter.inference.pipeline import Pipeline
from propainter.models.networks import Networks, build_networks
from propainter.schedule import Schedule
from propainter.validation import check_whole
from propainter.weights import fingerprint, load_file, load_pretrained, load_seeded, load_small

RUNNERS: dict[str, tuple[str, Callable[[Path], Call]]] = {
    "onnx": ("onnxruntime", onnxruntime_runner),
    "openvino": ("openvino", openvino_runner),
    "aoti": ("torch", aoti_runner),
}
"""What runs each format for the comparison: package and runner."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export by the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        export(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error}; check that the folder can be written to and has space left", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m propainter.export",
        description="Export the networks' components to files that run outside PyTorch, each compared with torch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder for the files")
    parser.add_argument("--to", default="onnx", metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument(
        "--components", default="all", metavar="NAMES", help=f"some of {','.join(COMPONENTS)}, with commas between"
    )
    parser.add_argument("--height", type=int, default=240, help="of the frames, a multiple of 8")
    parser.add_argument("--width", type=int, default=432, help="of the frames, a multiple of 8")
    parser.add_argument(
        "--frames", type=int, default=24, help="of the videos; recurrent components are exported for this length"
    )
    parser.add_argument(
        "--weights", default="small", metavar="WEIGHTS", help="small, seeded, pretrained, or a safetensors file"
    )
    parser.add_argument("--weights-dir", metavar="DIR", help="folder of the released weights")
    parser.add_argument("--raft-iterations", type=int, default=20, help="RAFT's updates of each pair")
    parser.add_argument("--neighbor-length", type=int, default=10, help="as in a run; 20 in experiment=evaluate")
    parser.add_argument("--ref-stride", type=int, default=10, help="as in a run")
    parser.add_argument("--subvideo-length", type=int, default=80, help="as in a run")
    parser.add_argument("--opset", type=int, default=OPSET, help="of ONNX, at least 19")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; compiled code runs on it alone")
    return parser


def export(options: argparse.Namespace) -> None:
    """Export into a new folder, which appears once all is done.

    Raises:
        InputError: an option is wrong, or a package is missing.
    """
    target: Path = options.output.expanduser()
    _check(options, target)
    with _new_folder(target) as part:
        count = _export_into(options, part)
    print(f"written: {target} ({count} files and {MANIFEST})")


def _export_into(options: argparse.Namespace, folder: Path) -> int:
    networks = _networks(options.weights, options.weights_dir).to(options.device)
    chosen = _components(options.components, networks)
    lengths = options.neighbor_length, options.ref_stride, options.subvideo_length
    pipeline = Pipeline(networks, Schedule(options.raft_iterations, *lengths))
    frames, masks = probe_clip(options.frames, options.height, options.width)
    recorder = Recorder(pipeline, chosen)
    reference = pipeline(frames, masks)
    manifest = _write_all(options, networks, recorder, pipeline, (frames, masks, reference), folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return len(manifest["files"])


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a folder that becomes `target` where the block succeeds; otherwise it is removed, with parents made for it.

    Raises:
        InputError: none can be made beside it.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"-o is {target}, and {target.parent} can't be written to: {error.strerror}; give another folder"
        ) from error
    try:
        yield part
        part.chmod(0o755)
        if target.exists():  # an empty folder
            target.rmdir()
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # not empty: they hold the target
            for parent in made:
                parent.rmdir()


def _check(options: argparse.Namespace, target: Path) -> None:
    if options.to not in FORMATS:
        raise InputError(f"--to is {options.to!r}; give one of {', '.join(FORMATS)}")
    if options.to == "onnx":
        check_opset("--opset", options.opset)
    for name in ("height", "width"):
        value = getattr(options, name)
        if value < 128 or value % 8:
            raise InputError(
                f"--{name} is {value}; give a multiple of 8, at least 128: frames are processed at such sizes"
            )
    check_whole("--frames", options.frames, least=2)
    for name, least in {"raft-iterations": 1, "neighbor-length": 2, "ref-stride": 1, "subvideo-length": 2}.items():
        check_whole(f"--{name}", getattr(options, name.replace("-", "_")), least)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda, and torch sees no GPU; give cpu")
    if options.device not in ("cpu", "cuda"):
        raise InputError(f"--device is {options.device!r}; give cpu or cuda")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "a folder with something in it" if target.is_dir() else "a file"
        raise InputError(f"-o is {target}, which is {what}; give a new folder")
    require(options.to)


def _networks(weights: str, folder: str | None) -> Networks:
    if weights == "small":
        return load_small()
    if weights in ("seeded", "pretrained"):
        networks = build_networks()
        load_seeded(networks) if weights == "seeded" else load_pretrained(networks, folder)
        return networks
    if Path(weights).suffix != ".safetensors":
        raise InputError(f"--weights is {weights!r}; give small, seeded, pretrained, or a safetensors file")
    return load_file(Path(weights).expanduser())


def _components(names: str, networks: Networks) -> list[str]:
    there = [name for name in COMPONENTS if name != "raft" or networks.raft is not None]
    if names == "all":
        return there
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in COMPONENTS:
            raise InputError(f"--components names {name!r}; give some of {','.join(COMPONENTS)}")
    if not chosen:
        raise InputError(f"--components names nothing; give some of {','.join(there)}")
    found = [name for name in dict.fromkeys(chosen) if name in there]
    if not found:
        raise InputError(f"--components names raft alone, and the {networks.architecture} weights have none")
    if len(found) < len(set(chosen)):
        print(f"left out: raft, which the {networks.architecture} weights do not have")
    return found


def _write_all(
    options: argparse.Namespace,
    networks: Networks,
    recorder: Recorder,
    pipeline: Pipeline,
    clip: tuple[np.ndarray, np.ndarray, np.ndarray],
    folder: Path,
) -> dict[str, Any]:
    """Write and compare all components, print a line for each file, and return the manifest."""
    files: list[dict[str, Any]] = []
    calls: dict[str, dict[str, Call]] = {}
    package, runner = RUNNERS[options.to]
    runs = find_spec(package) is not None
    for name, module in recorder.modules.items():
        several = len(recorder.examples[name]) > 1
        for shape, (inputs, expected) in recorder.examples[name].items():
            start = time.perf_counter()
            description = describe(name, module, inputs, networks.architecture, options.to, options.opset)
            path = folder / f"{name}{f'-{inputs[0].shape[1]}' if several else ''}{SUFFIXES[options.to]}"
            with _naming(name, options.to):
                write(description, module, inputs, path)
            entry = _entry(path, description, time.perf_counter() - start)
            if runs:
                with _naming(name, package), torch.inference_mode():
                    call = calls.setdefault(name, {})[shape] = _there(runner(path), options)
                    entry["parity"] = parity(call(*inputs), expected, package)
            files.append(entry)
            print(_line(entry), flush=True)
    manifest = {
        "format": options.to,
        "weights": {"source": options.weights, "fingerprint": fingerprint(networks)},
        "architecture": networks.architecture,
        "torch": torch.__version__,
        "height": options.height,
        "width": options.width,
        "frames": options.frames,
        "files": files,
        "pipeline": None,
    }
    if not runs:
        print(f"not compared: {package} is not installed (pip install {package})")
        return manifest
    for name, by_shape in calls.items():
        take_over(pipeline, name, _dispatch(name, by_shape))
    frames, masks, reference = clip
    manifest["pipeline"] = whole(pipeline(frames, masks), reference, masks)
    psnr = manifest["pipeline"]["psnr_hole_db"]
    equal = "equal to torch's in every pixel" if psnr is None else f"{psnr:.1f} dB beside torch's in the hole"
    print(f"whole pipeline, {options.frames} frames of {options.width}x{options.height}: {equal}")
    return manifest


@contextmanager
def _naming(component: str, what: str) -> Iterator[None]:
    """Turn any error inside the block into one sentence that names the component.

    Raises:
        InputError: something failed.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        raise InputError(f"{component} can't be exported to {what} ({reason}); leave it out of --components") from error


def _there(call: Call, options: argparse.Namespace) -> Call:
    """Return the call for tensors on the networks' device; files that run on any device are compared on the CPU."""
    if options.to == "aoti" or options.device == "cpu":
        return call
    return lambda *inputs: call(*(x.cpu() for x in inputs)).to(options.device)


def _dispatch(name: str, by_shape: dict[str, Call]) -> Call:
    return lambda *inputs: by_shape[str(COMPONENTS[name].shape_names(inputs))](*inputs)


def _entry(path: Path, description: Description, seconds: float) -> dict[str, Any]:
    digest = sha256(path.read_bytes()).hexdigest()
    return {
        "file": path.name,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "export_s": round(seconds, 3),
        "parity": None,
        **asdict(description),
    }


def parity(output: Tensor, expected: Tensor, by: str) -> dict[str, Any]:
    """Return how far a component's output is from torch's: its largest error, the largest value, and their ratio.

    Raises:
        InputError: the shapes differ, or the output is not finite.
    """
    if output.shape != expected.shape or not output.isfinite().all():
        raise InputError(
            f"{by} gave {list(output.shape)}, not all of it finite, where torch gave {list(expected.shape)}"
        )
    error, largest = float((output - expected).abs().max()), float(expected.abs().max())
    return {"by": by, "largest_error": error, "of": largest, "relative": error / largest if largest else error}


def whole(output: np.ndarray, reference: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """Return PSNR in dB between two results, in the hole and everywhere; None where they are equal."""
    squares = (output.astype(np.float64) - reference) ** 2

    def psnr_db(values: np.ndarray) -> float | None:
        mean = float(values.mean())
        return 10 * math.log10(255**2 / mean) if mean else None

    return {"psnr_hole_db": psnr_db(squares[masks > 0]), "psnr_db": psnr_db(squares)}


def _line(entry: dict[str, Any]) -> str:
    found = entry["parity"]
    error = "" if found is None else f"; error {found['largest_error']:.1e} of {found['of']:.3g} by {found['by']}"
    return f"{entry['file']}: {entry['bytes'] / 2**20:.1f} MiB in {entry['export_s']:.1f} s{error}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing half-written is left
    sys.exit(main())
