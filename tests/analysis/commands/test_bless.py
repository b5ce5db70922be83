"""bless: what a baseline holds, and what it refuses."""

import pytest
from support.records_fixture import make_record, write_sweep
from support.sweeps import SDPA

from analysis.__main__ import main
from analysis.commands.bless import read_baseline
from analysis.errors import InputError


class TestBless:
    def test_refuses_what_failed(self, gate, capsys):
        assert gate.bless(make_record(), make_record(**SDPA | {"status": "failed", "reason": "killed"})) == 1
        assert "attention=sdpa is failed: killed." in capsys.readouterr().out
        assert not gate.baseline.exists()

    def test_takes_what_cannot_run_here(self, gate):
        assert gate.bless(make_record(), make_record(attention="sdpa_cudnn", status="unsupported")) == 0
        code, out = gate.check(make_record(), make_record(attention="sdpa_cudnn", status="failed"))
        assert code == 1
        assert "status: unsupported -> failed" in out
        assert gate.check(make_record(), make_record(attention="sdpa_cudnn"))[0] == 0

    def test_refuses_damaged_records_and_missing_previews(self, gate, capsys):
        folder = gate.sweep([make_record()])
        (folder / "9").mkdir()
        (folder / "9" / "record.json").write_text("{")
        bare = write_sweep(gate.folder / "bare", [make_record()])
        for sweep, said in ((folder, "9/record.json is left out"), (bare, "has no preview")):
            assert main(["bless", str(sweep), "-o", str(gate.baseline)]) == 1
            assert said in capsys.readouterr().out

    def test_disturbed_runs_count_for_performance_only_when_told(self, gate, capsys):
        slow = make_record(seconds=20.0)
        disturbed = make_record(disturbed=["load 4.0"])
        assert gate.bless(disturbed) == 0
        assert "without performance, since these runs were disturbed" in capsys.readouterr().out
        code, out = gate.check(slow)
        assert (code, "the baseline's run was disturbed" in out) == (0, True)
        assert gate.bless(disturbed, options=["--allow-disturbed"]) == 0
        assert gate.check(slow)[0] == 1

    def test_holds_the_references_frames_once(self, blessed):
        baseline = read_baseline(blessed.baseline)
        assert [len(frames) for frames in baseline["references"].values()] == [4]
        assert len(baseline["variants"]) == 2
        assert all(len(row["results"]) == 4 for row in baseline["variants"])


def test_a_baseline_is_read_by_its_name_only(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_baseline(tmp_path / "nowhere.json")
