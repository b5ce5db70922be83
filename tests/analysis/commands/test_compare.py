"""compare: two sweeps side by side."""

from support.records_fixture import make_record, write_sweep
from support.sweeps import SWEEP

from analysis.__main__ import main


class TestCompare:
    def compare(self, tmp_path, capsys, first, second):
        folders = [write_sweep(tmp_path / name, records) for name, records in (("a", first), ("b", second))]
        code = main(["compare", *map(str, folders)])
        return code, *capsys.readouterr()

    def test_side_by_side(self, tmp_path, capsys):
        newer = dict(torch="2.16.0")
        code, out, _ = self.compare(
            tmp_path,
            capsys,
            SWEEP,
            [
                make_record(seconds=7.9, **newer),
                make_record(attention="sdpa", seconds=5.0, psnr_hole_db=83.0, **newer),
                make_record(precision="half", **newer),
            ],
        )
        assert code == 0
        assert out.startswith("A: AMD EPYC, torch 2.15.0\nB: AMD EPYC, torch 2.16.0\n")
        lines = {line.split(" | ")[0].strip("| "): line for line in out.splitlines() if line.startswith("|")}
        assert "no difference shown" in lines["published"]
        assert "same PSNR" in lines["published"]
        assert "1.20x (1.15 to 1.25), faster" in lines["attention=sdpa"]
        assert "-2.0 dB" in lines["attention=sdpa"]
        assert "Only in A: precision=amp; chunking=fixed; attention=sdpa_cudnn." in out
        assert "Only in B: precision=half." in out
        assert "not visual quality" in out

    def test_no_speedup_between_doubtful_times(self, tmp_path, capsys):
        first = [make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa")]
        second = [make_record(seconds=8.0), make_record(attention="sdpa", latency__ci95_s=None)]
        _, out, _ = self.compare(tmp_path, capsys, first, second)
        lines = {line.split(" | ")[0].strip("| "): line for line in out.splitlines() if line.startswith("|")}
        assert " not stated: A doubtful " in lines["published"]
        assert " not stated: B doubtful " in lines["attention=sdpa"]
        assert "A: published was disturbed while it was timed (load 3.0). To measure it again" in out
        assert "B: attention=sdpa was timed too few times for an interval" in out

    def test_nothing_in_common(self, tmp_path, capsys):
        code, _, err = self.compare(tmp_path, capsys, [make_record()], [make_record(weights="pretrained")])
        assert code == 2
        assert "other weights" in err
