"""A fingerprint changes with any source file of a package, at any depth, and with nothing else."""

import sys
from importlib import import_module

import pytest

from propainter.fingerprint import source_fingerprint


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one module, and of a package with one more."""
    for path, text in {"__init__": "", "one": "x = 1\n", "inner/__init__": "", "inner/two": "y = 2\n"}.items():
        file = tmp_path / "fingerprinted" / f"{path}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("fingerprinted")
    for name in [name for name in sys.modules if name.partition(".")[0] == "fingerprinted"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", ["__init__.py", "one.py", "inner/__init__.py", "inner/two.py", "new.py"])
def test_any_source_file_of_a_package_counts(package, tmp_path, path):
    before = source_fingerprint(package)
    (tmp_path / "fingerprinted" / "notes.txt").write_text("no source")
    assert source_fingerprint(package) == before
    with open(tmp_path / "fingerprinted" / path, "a") as file:
        file.write("# changed\n")
    assert source_fingerprint(package) != before


def test_of_a_module_its_own_file_counts_alone(package, tmp_path):
    module = import_module("fingerprinted.one")
    before = source_fingerprint(module)
    (tmp_path / "fingerprinted" / "inner" / "two.py").write_text("y = 3\n")
    assert source_fingerprint(module) == before
    (tmp_path / "fingerprinted" / "one.py").write_text("x = 3\n")
    assert source_fingerprint(module) != before


def test_what_moves_from_one_file_to_the_next_counts(package, tmp_path):
    before = source_fingerprint(package)
    (tmp_path / "fingerprinted" / "one.py").write_text("")
    (tmp_path / "fingerprinted" / "inner" / "two.py").write_text("x = 1\ny = 2\n")
    assert source_fingerprint(package) != before
