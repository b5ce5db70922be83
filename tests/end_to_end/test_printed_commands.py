"""The commands in README and docs: each is composed, or parsed by its program; README's runs are made, small."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.types import Override
from support.command_line import ROOT
from support.printed_commands import UsersFiles, commands_in, made_small
from support.records_fixture import make_record, write_sweep
from support.run_many import run_many

from analysis.__main__ import parser as analysis_parser
from experiments.launch.cli import run
from experiments.launch.command_line import CommandLine

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"propainter-bench": ["python", "run.py"], "propainter-bench-analysis": ["python", "-m", "analysis"]}
"""Console scripts of an installed package, and what they stand for."""


def words_of(command: str) -> list[str]:
    first, *rest = shlex.split(command)
    return [*PROGRAMS.get(first, [first]), *rest]


def printed(page: Path) -> list[list[str]]:
    return [words_of(command) for command in commands_in(page.read_text())]


EVERY = list({tuple(words): None for page in PAGES for words in printed(page)})
RUNS = [list(words[2:]) for words in EVERY if words[:2] == ("python", "run.py")]
ANALYSES = [list(words[3:]) for words in EVERY if words[:3] == ("python", "-m", "analysis")]
TARGETS = [words[1] for words in EVERY if words[0] == "make"]
MODULES = [words for words in EVERY if words[:2] == ("python", "-m") and words[2] != "analysis"]


def values_of(override: Override) -> list[str]:
    """Return an override for each value that it sweeps; itself where it sweeps none."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def joined(words: list[str]) -> str:
    return shlex.join(words) or "nothing"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep's folder as `resume` and the analysis want it, and a baseline made of it."""
    folder = tmp_path_factory.mktemp("sweep") / "swept"
    small = dict(peak_bytes=64 * 2**20)
    write_sweep(folder, [make_record(**small), make_record(attention="sdpa", seconds=7.0, **small)], with_previews=True)
    (folder / "multirun.yaml").touch()
    bless(folder, folder.parent / "baseline.json")
    return folder


def bless(folder: Path, target: Path) -> None:
    arguments = analysis_parser().parse_args(["bless", str(folder), "-o", str(target)])
    assert arguments.main(arguments) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the variant of one's own that README shows: its code, and the YAML file it describes."""
    folder = tmp_path_factory.mktemp("home")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (code,) = (block for block in blocks if "def relu(" in block)
    options = folder / "mine" / "conf" / "attention"
    options.mkdir(parents=True)
    (folder / "mine" / "kernels.py").write_text(code)
    (options / "relu.yaml").write_text("_target_: mine.kernels.relu\n_partial_: true\n")
    return folder


def test_commands_are_found():
    page = """Type `make demo`, or
```
$ python run.py -m a=1,2 \\
    b=3   # a remark
PYTHONPATH=. python run.py 'hydra.searchpath=[file://mine/conf]' -m a=1
- run: python -m analysis check now --baseline b.json >> $SUMMARY
python -m analysis report sweeps/one                 the page again, of several
python run.py experiment=gpu_suite                  all of it, under 25 minutes
published#1 python run.py
```"""
    assert commands_in(page) == [
        "python run.py -m a=1,2 b=3",
        "python run.py 'hydra.searchpath=[file://mine/conf]' -m a=1",
        "python -m analysis check now --baseline b.json",
        "python -m analysis report sweeps/one",
        "python run.py experiment=gpu_suite",
        "make demo",
    ]


def test_each_is_of_a_program_that_is_tried_here():
    assert len(RUNS) > 10 and ANALYSES and TARGETS and MODULES
    assert len(EVERY) == len(RUNS) + len(ANALYSES) + len(TARGETS) + len(MODULES)


@pytest.mark.slow
def test_runs_are_composed(home, sweep, monkeypatch, capsys):
    """Each value of a sweep once, by the command line's own path."""
    monkeypatch.chdir(home)
    wrong = []
    for arguments in RUNS:
        if "--help" in arguments:
            continue
        here = [f"resume={sweep}" if item.startswith("resume=") else item for item in arguments]
        line = CommandLine.parse([item for item in here if item != "..."])
        flags = [flag for flag in line.flags if flag != "--multirun"]
        values = [values_of(item) for item in line.overrides]
        for number in range(max(map(len, values), default=1)):
            code = run([*flags, *(each[min(number, len(each) - 1)] for each in values), "--cfg", "job"])
            out, err = capsys.readouterr()
            if code != 0 or "device:" not in out:
                wrong.append(f"python run.py {shlex.join(arguments)}\n{err}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_runs_of_the_readme_are_made(home, tmp_path):
    runs = [words[2:] for words in printed(ROOT / "README.md") if words[:2] == ["python", "run.py"]]
    files, lines = UsersFiles(tmp_path), []
    for number, arguments in enumerate(runs):
        if "--help" not in arguments and not any(item.startswith("experiment=") for item in arguments):
            where = [f"hydra.run.dir={tmp_path}/{number}", f"hydra.sweep.dir={tmp_path}/{number}"]
            lines.append([*made_small(arguments, files), *where, "isolate=false", "report=false"])
    assert len(lines) >= 5
    ran = run_many(lines, home)
    failures = [f"python run.py {shlex.join(one.arguments)}\n{one.code}: {one.text[-2000:]}" for one in ran if one.code]
    assert all(one.code is not None for one in ran) and not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ANALYSES, ids=joined)
def test_analysis_commands_are_run(arguments, sweep, tmp_path, capsys):
    """On records of this test: folders that are read become its sweep, files that are written go to its folder."""
    if not arguments:
        assert "recommend" in analysis_parser().format_help()
        return
    given = analysis_parser().parse_args(arguments)
    # The sweep's weights are seeded: only an evaluation says what is lost to the truth.
    read = ROOT / "baselines" / "synthetic" if getattr(given, "max_psnr_loss_db", None) else sweep
    for name, value in vars(given).items():
        if name == "output":
            given.output = tmp_path / "output" if value or arguments[0] == "report" else None
        elif name == "baseline" and isinstance(value, Path):
            given.baseline = sweep.parent / "baseline.json"
        elif isinstance(value, Path):
            setattr(given, name, read)
        elif isinstance(value, list) and value and isinstance(value[0], Path):
            setattr(given, name, [read])
    code = given.main(given)
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out or given.output.exists()


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_make_has_the_target(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({words[2] for words in MODULES}))
def test_modules_take_these_options(module):
    assert importlib.util.find_spec(module)
    command = [sys.executable, "-m", module, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    flags = {word for words in MODULES if words[2] == module for word in words[3:] if word.startswith("-")}
    assert {flag for flag in flags if flag not in text} == set()


def test_exported_files_are_for_the_clip_of_the_run_beside_them():
    """They are for one size, and some of them for one length."""
    text = (ROOT / "docs" / "export.md").read_text()
    (export,) = (words for words in MODULES if words[2] == "propainter.export" and "-o" in words)
    (run_with_files,) = (words for words in RUNS if any(word.startswith("runtime.files=") for word in words))
    assert shlex.join(export) in text and shlex.join(run_with_files) in text
    given = dict(word.split("=", 1) for word in run_with_files)
    options = dict(zip(export[3::2], export[4::2], strict=True))
    assert given["runtime.files"] == options["-o"] and given["weights"] == options["--weights"]
    assert [given[f"data.{name}"] for name in ("num_frames", "height", "width")] == [
        options[flag] for flag in ("--frames", "--height", "--width")
    ]
