"""table: Markdown and CSV of a sweep."""

import csv
import io

import pytest
from support.evaluation_fixture import make_evaluation, make_variant, write_evaluation
from support.records_fixture import MIB, make_record

from analysis.__main__ import main


class TestTable:
    def test_markdown(self, run):
        code, out, _ = run("table")
        assert code == 0
        assert (
            "| precision=amp (disturbed) | ok | 4.00 s (3.88 to 4.12) | 2.00x (1.92 to 2.09) unpaired doubtful |" in out
        )
        assert "| published | ok | 8.00 s (7.76 to 8.24) |  | 1,000 MiB | identical |" in out
        assert "unsupported: needs CUDA \\| and more" in out
        assert "numerical agreement with the fp32 reference, not visual quality" in out

    def test_what_is_doubtful_is_said_with_its_command(self, run):
        records = [make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", seconds=4.8)]
        _, out, _ = run("table", records=records)
        assert "| attention=sdpa | ok | 4.80 s (4.66 to 4.94) | 39.58x (37.94 to 41.30) unpaired doubtful |" in out
        assert (
            "published was disturbed while it was timed (load 3.0). To measure it again on a quiet machine:\n    "
            in out
        )
        _, out, _ = run("table", "--format", "csv", records=records)
        rows = list(csv.DictReader(io.StringIO(out)))
        assert (
            rows[1]["doubt.speedup"]
            == rows[0]["doubt.latency"]
            == "published was disturbed while it was timed (load 3.0)"
        )

    def test_each_clip_has_its_command_and_of_many_a_few_are_named(self, run):
        busy = [make_record(frames=count, disturbed=["load 3.0"]) for count in range(2, 10)]
        _, out, _ = run("table", records=busy[:2])
        for count in (2, 3):
            assert f"(load 3.0), on sample, {count} frames of 160x128. To measure it again" in out
            assert f"\n    python run.py data.num_frames={count} " in out
        _, out, _ = run("table", records=busy)
        assert out.count("To measure it again") == 5
        assert "\n... and 3 more\n" in out

    def test_csv_has_bare_numbers(self, run):
        _, out, _ = run("table", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert float(rows[1]["latency.ci95_s.low"]) == pytest.approx(5.82)
        assert rows[1]["memory.peak_bytes"] == str(900 * MIB)
        assert rows[4]["latency.ci95_s.low"] == rows[4]["latency.median_s"] == ""

    def test_columns_and_order(self, run):
        _, out, _ = run("table", "--columns", "variant,stages.flow.median_s", "--sort", "latency.median_s")
        lines = out.splitlines()
        assert lines[0] == "| variant | stages.flow.median_s |"
        assert lines[2] == "| precision=amp (disturbed) | 1.68 |"

    def test_an_unknown_column_names_the_nearest(self, run):
        for arguments in (("--columns", "latency.median"), ("--sort", "latency.median")):
            code, _, err = run("table", *arguments)
            assert code == 2
            assert "latency.median_s" in err

    def test_the_truth_has_a_column_where_a_row_knows_it(self, run):
        records = [make_record(truth_db=24.0), make_record(precision="amp", truth_db=23.85)]
        lines = run("table", records=records)[1].splitlines()
        assert lines[0].endswith("| lpips | psnr_to_truth |")
        assert [line.split("|")[-2].strip() for line in lines[2:4]] == ["24.00 dB", "23.85 dB"]
        assert lines[-1].endswith("Against the truth it says nothing, since these weights were not learned.")
        rows = list(csv.DictReader(io.StringIO(run("table", "--format", "csv", records=records)[1])))
        keys = ("quality.truth.psnr_hole_db", "quality.truth.reference_psnr_hole_db")
        assert [rows[1][key] for key in keys] == ["23.85", "24"]
        assert "truth" not in run("table", records=[make_record(truth_db=None)])[1]

    def test_several_clips_are_told_apart(self, run):
        out = run("table", records=[make_record(), make_record(frames=7)])[1]
        assert "sample, 7 frames of 160x128" in out

    def test_into_a_file(self, run, tmp_path):
        assert run("table", "-o", str(tmp_path / "deep" / "table.md"))[1] == ""
        assert "precision=amp" in (tmp_path / "deep" / "table.md").read_text()


class TestEvaluation:
    def test_its_table_stands_below(self, run, tmp_path):
        out = run("table", str(write_evaluation(tmp_path / "evaluation")))[1]
        below = out[
            out.index("Quality against the truth: synthetic, 20 videos, 320 frames of 432x240; small weights;") :
        ]
        assert out.startswith("| variant | status |")
        assert (
            "| precision=amp | 20 | 34.20 | 0.9712 | 23.12 | 0.01234 | 0.1180 | -0.020 "
            "(-0.050 to +0.010) | 1.32x (1.25 to 1.39) |" in below
        )
        assert "narrower than the published ones" in below and "Protocol: raft_iterations 20" in below

    def test_alone(self, tmp_path, capsys):
        folder = write_evaluation(tmp_path / "evaluation")
        assert main(["table", str(folder)]) == 0
        assert capsys.readouterr().out.startswith("Quality against the truth: ")
        assert main(["table", str(folder), "--format", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["variant"] for row in rows] == ["published", "precision=amp", "chunking=fixed"]
        assert rows[0]["psnr_hole_db_minus_baseline"] == "" and rows[0]["videos"] == "20"
        assert float(rows[1]["psnr_hole_db_minus_baseline.low"]) == pytest.approx(-0.05)
        assert main(["table", str(folder), "-o", str(tmp_path / "table.md")]) == 0
        assert "| precision=amp | 20 |" in (tmp_path / "table.md").read_text()
        assert main(["table", str(folder), "--sort", "latency.median_s"]) == 2
        assert "--columns and --sort can't be used" in capsys.readouterr().err

    def test_what_is_missing_or_doubtful_is_said(self, tmp_path, capsys):
        few = make_evaluation(make_variant(precision="amp", difference_db=-0.02, speedup=1.3, failed=1), videos=2)
        assert main(["table", str(write_evaluation(tmp_path, few | {"disturbed": ["load 3.0"]}))]) == 0
        out = capsys.readouterr().out
        assert "| precision=amp | 1 (1 failed) |" in out and "| -0.020 | 1.30x doubtful |" in out
        assert "A difference without an interval is of too few videos" in out
        assert "A doubtful speed: the evaluation was disturbed while it was timed (load 3.0)." in out

    def test_a_damaged_one_beside_records(self, run, tmp_path, caplog):
        folder = write_evaluation(tmp_path / "evaluation")
        (folder / "evaluation.json").write_text("{")
        code, out, _ = run("table", str(folder))
        assert code == 0 and "Quality against the truth" not in out
        assert "evaluation.json is left out: it can't be read as JSON" in caplog.text
