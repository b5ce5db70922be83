"""The command line as a user meets it."""

import subprocess
import sys

import pytest
from support.command_line import ROOT
from support.records_fixture import write_sweep
from support.sweeps import SWEEP

from analysis.__main__ import _with_home, main


def analysis_process(*arguments):
    return subprocess.run([sys.executable, "-m", "analysis", *arguments], capture_output=True, text=True, cwd=ROOT)


class TestCommandLine:
    def test_help_lists_the_commands(self):
        done = analysis_process("--help")
        assert done.returncode == 0
        for command in ("report", "claims", "check", "bless", "recommend", "compare", "table"):
            assert f"\n    {command}" in done.stdout

    @pytest.mark.parametrize(
        "arguments",
        [["table"], ["recommend"], ["claims"], ["report"], ["check", "--baseline", "x"], ["bless", "-o", "x"]],
    )
    def test_an_empty_folder_is_one_sentence(self, tmp_path, capsys, arguments):
        assert main([*arguments, str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("there is no record")
        assert said.count("\n") == 1

    def test_a_path_that_is_not_there(self):
        done = analysis_process("table", "nowhere")
        assert done.returncode == 2
        assert done.stderr == "nowhere does not exist; give run folders, sweep folders or record files.\n"

    def test_damaged_records_are_named_and_the_rest_is_shown(self, tmp_path):
        write_sweep(tmp_path, SWEEP[:2], parquet=False)
        (tmp_path / "1" / "record.json").write_text("{")
        done = analysis_process("table", str(tmp_path))
        assert done.returncode == 0
        assert "1/record.json is left out: it can't be read as JSON" in done.stderr
        assert "| published |" in done.stdout

    def test_neither_torch_nor_what_knows_it_is_imported(self, tmp_path):
        write_sweep(tmp_path, SWEEP)
        code = f"""
import sys
from analysis.__main__ import _with_home, main
for command in ("table", "claims", "recommend"):
    main([command, {str(tmp_path)!r}])
print([name for name in ("torch", "hydra", "propainter", "experiments", "variants") if name in sys.modules])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_nothing_heavy_is_imported_for_help(self):
        code = (
            "import sys, analysis.__main__; print([m for m in ('pandas', 'matplotlib', 'scipy') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout == "[]\n"


def test_the_home_is_found_after_an_option_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["table", "~/none"]) == 2 and str(tmp_path / "none") in capsys.readouterr().err
    assert main(["report", "~/none", "--output=~/page.html"]) == 2
    assert _with_home("--output=~/page.html") == f"--output={tmp_path}/page.html"
