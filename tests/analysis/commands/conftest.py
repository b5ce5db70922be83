"""A command as a user types it, and a gate that is blessed and checked."""

from pathlib import Path

import pytest
from support.records_fixture import make_record, write_sweep
from support.sweeps import SDPA, SWEEP

from analysis.__main__ import main


@pytest.fixture
def run(tmp_path, capsys):
    """run(command, *arguments, records=...) is the exit code, stdout and stderr; {} stands for the sweep's folder."""

    def analysis(command, *arguments, records=SWEEP):
        folder = write_sweep(tmp_path / f"sweep{len(list(tmp_path.iterdir()))}", records)
        capsys.readouterr()
        code = main([command, str(folder), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return analysis


class Gate:
    """Blesses one sweep, checks another."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder, self.capsys = folder, capsys
        self.baseline = folder / "baseline.json"
        self.sweeps = 0

    def sweep(self, records, **written) -> Path:
        self.sweeps += 1
        return write_sweep(self.folder / str(self.sweeps), records, with_previews=True, parquet=False, **written)

    def bless(self, *records, options=(), **written) -> int:
        return main(["bless", str(self.sweep(records, **written)), "-o", str(self.baseline), *options])

    def check(self, *records, options=(), **written) -> tuple[int, str]:
        folder = self.sweep(records, **written)
        self.capsys.readouterr()
        code = main(["check", str(folder), "--baseline", str(self.baseline), *options])
        return code, self.capsys.readouterr().out


@pytest.fixture
def gate(tmp_path, capsys):
    return Gate(tmp_path, capsys)


@pytest.fixture
def blessed(gate):
    """A gate with a baseline of published and sdpa."""
    assert gate.bless(make_record(), make_record(**SDPA)) == 0
    return gate
