"""scripts/gpu_evidence.sh at tiny size: what it leaves, without a network, and what it has left when it is killed."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import packaging
import psutil
import pytest
from support.command_line import CHEAP, ROOT, SMALLEST

COPIED = ("analysis", "conf", "experiments", "propainter", "scripts", "variants", "run.py", "pyproject.toml")
TWO_RUNS = "published_240p,|fast_10,"
"""The runs that the copy's suite keeps: the first, and the one that leaves a trace."""
COMMIT = "0123456789ab"
NO_NETWORK = """
import os, socket, sys
def log(line):
    with open(os.environ["NETWORK_LOG"], "a") as file: file.write(line + chr(10))
def refuse(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and arguments[0].family != socket.AF_UNIX:
        log(f"asked for {arguments}")
        raise OSError("no network in this test")
sys.addaudithook(refuse)
log("refused from here on")
"""
"""A sitecustomize: no name is looked up, nothing connected, and who tries is written down."""

TORCH_WITHOUT_GPU = """
__version__ = "2.11"
class cuda:
    is_available = staticmethod(lambda: False)
class version:
    cuda = "13.0"
"""
"""What the script asks of torch first, without the seconds of its import."""

CHEAPEST = ["--", *SMALLEST, *(item for item in CHEAP if item.startswith("measure.")), "kernels=torch"]
"""Overrides: the smallest clip, and no kernels to compile."""


class Machine:
    """A copy of the project without .git, with two runs in the suite, no GPU, and a wheel that cuts the network."""

    def __init__(self, folder: Path) -> None:
        self.root, self.network_log = folder / "copy", folder / "network.log"
        self.root.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.root / name)
        suite = self.root / "conf" / "experiment" / "gpu_suite.yaml"
        lines = suite.read_text().splitlines(keepends=True)
        suite.write_text("".join(line for line in lines if "{name:" not in line or re.search(TWO_RUNS, line)))
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        info = "cut_off-1.dist-info"
        with zipfile.ZipFile(self.wheels / "cut_off-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("sitecustomize.py", NO_NETWORK)
            wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: cut-off\nVersion: 1\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        self.env = {
            **{key: value for key, value in os.environ.items() if key not in ("OUT", "PYTHONPATH")},
            **{"PYTHON": sys.executable, "PROPAINTER_BENCH_COMMIT": COMMIT, "NETWORK_LOG": str(self.network_log)},
            **{"PROPAINTER_BENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen:
        command = [str(self.root / "scripts" / "gpu_evidence.sh"), *arguments]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(command, cwd=self.root.parent, env={**self.env, **env}, **pipes)

    def run(self, *arguments: str, **env: str) -> tuple[int, str]:
        process = self.start(*arguments, **env)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("machine"))


def records(out: Path) -> dict[str, dict]:
    with tarfile.open(out / "records.tar") as tar:
        files = [name for name in tar.getnames() if name.endswith("record.json")]
        return {name.split("/")[0]: json.load(tar.extractfile(name)) for name in files}


def kill_all(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, as when the machine goes."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_after_its_first_run_and_resumed_from_the_files_that_came_back(machine, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    typed = ["--tiny", "--wheels", str(machine.wheels)]
    process = machine.start(*typed, "--out", str(first), *CHEAPEST)
    deadline = time.monotonic() + 120
    while not (first / "records.tar").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(process)
    assert list(records(first)) == ["published_240p"]
    text = (first / "log.txt").read_text()
    assert "tests: there are none here" in text and "1/2  published_240p" in text

    gpu_tests = machine.root / "tests" / "gpu"
    gpu_tests.mkdir(parents=True)
    (gpu_tests / "test_it.py").write_text("import pytest\n\ndef test_it():\n    pytest.skip('no GPU')\n")
    code, out = machine.run(*typed, "--out", str(second), "--resume", str(first), *CHEAPEST)
    assert code == 0, out
    assert len(list((machine.root / "suites").iterdir())) == 2  # what was kept is of the files that came back
    assert (second / "log.txt").read_text() == out
    assert "tests: passed, or skipped without a GPU" in out and out.count("kept, ok") == 1
    assert {path.name for path in second.iterdir()} == {
        *("log.txt", "nvidia-smi.txt", "previews.tar", "records.tar", "tests.xml", "trace.json.gz")
    }
    assert all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in second.iterdir())
    made = records(second)
    assert list(made) == ["fast_10", "published_240p"]
    for record in made.values():
        assert record["status"] == "ok"
        assert record["weights"]["source"] == "seeded" and "reason" not in record["weights"]
        assert record["quality"]["lpips_reason"] == "left out by quality.lpips=false"
        environment = record["environment"]
        assert (environment["commit"], environment["commit_source"]) == (COMMIT, "PROPAINTER_BENCH_COMMIT")
    with tarfile.open(second / "previews.tar") as tar:
        assert tar.getnames() == [f"{name}/preview.jpg" for name in made]
    assert json.loads(gzip.decompress((second / "trace.json.gz").read_bytes()))["traceEvents"]
    asked = machine.network_log.read_text().splitlines()
    assert len(asked) >= 6 and set(asked) == {"refused from here on"}  # two calls, each with its suite and runs


@pytest.fixture
def no_packages(tmp_path):
    """The environment of a Python whose only package is a torch without a GPU."""
    (tmp_path / "torch.py").write_text(TORCH_WITHOUT_GPU)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return {"PYTHON": str(python), "PYTHONPATH": str(tmp_path)}


def test_without_a_gpu_only_tiny_runs(machine, tmp_path, no_packages):
    code, out = machine.run("--out", str(tmp_path / "out"), **no_packages)
    assert code == 1 and out.count("\n") == 1
    assert out.startswith("torch sees no CUDA device here; without one only --tiny runs")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--huge"], "--huge is no option"),
        (["tiny"], "tiny is no option"),
        (["--slice"], "--slice needs a value"),
        (["--slice", "0"], "--slice is 0; give a number from 1"),
        (["--resume", "nowhere"], "nowhere has no records.tar"),
        (["--wheels", "nowhere"], "nowhere has no wheels"),
        (["--tiny", "--", "fast"], "fast is no override"),
    ],
)
def test_a_wrong_option_is_a_sentence(machine, typed, sentence):
    code, out = machine.run(*typed)
    assert code == 2 and out.startswith(sentence) and out.count("\n") == 1


def test_earlier_records_are_not_written_over(machine, tmp_path):
    (tmp_path / "records.tar").touch()
    code, out = machine.run("--tiny", "--out", str(tmp_path))
    assert code == 2 and out.count("\n") == 1
    assert out.startswith(f"{tmp_path} has the records of an earlier call; go on from them with --resume, or give")


def test_a_wrong_commit_is_a_sentence(machine):
    code, out = machine.run("--tiny", PROPAINTER_BENCH_COMMIT="main")
    assert code == 2 and out.count("\n") == 1
    assert out.startswith("PROPAINTER_BENCH_COMMIT is main; give the 7 to 40 hex digits of a commit")


def test_packages_that_python_lacks_are_a_sentence(machine, tmp_path, no_packages):
    typed = ["--tiny", "--out", str(tmp_path / "out")]
    code, out = machine.run(*typed, **no_packages)
    assert code == 1 and "Traceback" not in out
    assert out.splitlines()[-1].startswith("python lacks packaging; bring wheels")
    shutil.copytree(Path(packaging.__file__).parent, tmp_path / "packaging")
    code, out = machine.run(*typed, **no_packages)
    assert code == 1 and "Traceback" not in out
    last = out.splitlines()[-1]
    assert last.startswith("python lacks torch") and ", pytest; bring wheels" in last
    assert "opencv" not in last


def test_what_a_gpu_machine_does_without_is_a_dependency():
    listed = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
    lines = (ROOT / "scripts" / "gpu_not_needed.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert names and all(f'"{name}>=' in listed for name in names)


def test_a_python_without_torch_is_a_sentence(machine, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    code, out = machine.run("--tiny", PYTHONPATH=str(tmp_path))
    assert code == 1 and out.count("\n") == 1
    assert "has no torch that can be imported (ImportError: libcudart is missing); name another" in out


def test_help_names_every_option(machine):
    code, out = machine.run("--help")
    assert code == 0
    assert all(f"--{name}" in out for name in ("slice N", "tiny", "resume", "wheels", "out", "help"))


def test_wheels_in_a_given_folder_stay(tmp_path):
    pytest.importorskip("pip")
    wheel = tmp_path / "mine-1-py3-none-any.whl"
    wheel.touch()
    command = [sys.executable, str(ROOT / "scripts" / "gpu_wheels.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and wheel.exists()
    assert done.stderr == f"{tmp_path} has other wheels, such as {wheel.name}; give an empty folder\n"
