"""scripts/gpu_evidence.sh at tiny size: what it leaves, without a network, and what it has left when it is killed."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from support.command_line import CHEAP, ROOT, SMALLEST

COPIED = ("analysis", "conf", "experiments", "propainter", "scripts", "variants", "run.py", "pyproject.toml")
TESTS = ("tests/conftest.py", "tests/gpu", "tests/support")
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


class Machine:
    """A copy of the project without .git, no GPU, and a wheel that cuts the network."""

    def __init__(self, folder: Path) -> None:
        self.root, self.network_log = folder / "copy", folder / "network.log"
        self.add(COPIED)
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

    def add(self, names: Iterable[str]) -> None:
        """Copy files and folders of the project."""
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (self.root / name).parent.mkdir(exist_ok=True)
            copy(ROOT / name, self.root / name)

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
    smaller = ["--", *SMALLEST, *[item for item in CHEAP if item.startswith("measure.")], "measure.min_pairs=1"]
    process = machine.start(*typed, "--out", str(first), *smaller)
    deadline = time.monotonic() + 120
    while not (first / "records.tar").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(process)
    assert list(records(first)) == ["published_240p"]
    text = (first / "log.txt").read_text()
    assert "tests: there are none here" in text and "1/3  published_240p" in text

    shutil.rmtree(machine.root / "suites")  # only the files came back
    machine.add(TESTS)
    code, out = machine.run(*typed, "--out", str(second), "--resume", str(first), *smaller)
    assert code == 0, out
    assert (second / "log.txt").read_text() == out
    assert "tests: passed, or skipped without a GPU" in out and out.count("kept, ok") == 1
    assert {path.name for path in second.iterdir()} == {
        *("log.txt", "nvidia-smi.txt", "previews.tar", "records.tar", "tests.xml", "trace.json.gz")
    }
    assert all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in second.iterdir())
    made = records(second)
    assert list(made) == ["fast_10", "fast_240p", "published_240p"]
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


@pytest.mark.slow
def test_without_a_gpu_only_tiny_runs(machine, tmp_path):
    code, out = machine.run("--out", str(tmp_path / "out"))
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


def test_a_python_without_torch_is_a_sentence(machine, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    code, out = machine.run("--tiny", PYTHONPATH=str(tmp_path))
    assert code == 1 and out.count("\n") == 1
    assert "has no torch that can be imported (ImportError: libcudart is missing); name another" in out


def test_help_names_every_option(machine):
    code, out = machine.run("--help")
    assert code == 0
    assert all(f"--{name}" in out for name in ("slice N", "tiny", "resume", "wheels", "out", "help"))
