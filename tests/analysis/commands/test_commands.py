"""recommend, compare, table, and the command line as a user meets it."""

import csv
import io
import subprocess
import sys

import pytest
from support.command_line import ROOT
from support.records_fixture import MIB, make_record, write_sweep

from analysis.__main__ import main

GIB = 2**30
SWEEP = [
    make_record(seconds=8.0, peak_bytes=1000 * MIB),
    make_record(attention="sdpa", seconds=6.0, peak_bytes=900 * MIB, psnr_hole_db=85.0),
    make_record(precision="amp", seconds=4.0, peak_bytes=700 * MIB, psnr_hole_db=38.0, disturbed=["load 3.0"]),
    make_record(chunking="fixed", seconds=9.0, peak_bytes=300 * MIB, psnr_hole_db=45.0),
    make_record(attention="sdpa_cudnn", status="unsupported", reason="needs CUDA | and more"),
]


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


class TestRecommend:
    def test_the_fastest_and_its_command(self, run):
        code, out, _ = run("recommend")
        assert code == 0
        assert "The fastest of 4 measured:\n  precision=amp\n" in out
        assert "    python run.py precision=amp data.num_frames=6" in out
        assert "2.00x (1.92 to 2.09) published's speed, unpaired" in out
        assert "disturbed while it was measured" in out

    def test_within_bounds(self, run):
        code, out, _ = run("recommend", "--min-psnr-hole-db", "40")
        assert code == 0
        assert "The fastest of 4 measured within the bounds:\n  attention=sdpa\n" in out
        assert out.index("Runners-up") < out.index("\n  published\n") < out.index("\n  chunking=fixed\n")

    def test_for_memory(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "50", "--for", "memory")
        assert "The smallest of 4 measured within the bounds:\n  attention=sdpa\n" in out

    def test_identical_is_within_any_bound_on_psnr(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "200", "--max-memory-gb", "1")
        assert "\n  published\n" in out
        assert "identical in the hole" in out

    def test_seeded_weights_make_it_agreement(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "40")
        assert "40 dB is a bound on numerical agreement with the fp32 reference here, not on visual quality" in out
        learned = [make_record(weights="pretrained")]
        assert "agreement" not in run("recommend", "--min-psnr-hole-db", "40", records=learned)[1]

    def test_nothing_fits(self, run):
        code, out, _ = run("recommend", "--max-memory-gb", "0.25", "--max-latency-s", "8.5")
        assert code == 1
        assert "Nothing that was measured fits. The nearest:\n  chunking=fixed\n" in out
        assert "0.29 GiB of host memory, over the 0.25 GiB of host memory of --max-memory-gb" in out
        assert "9.00 s, over the 8.50 s of --max-latency-s" in out

    def test_vram_is_of_gpus(self, run):
        code, _, err = run("recommend", "--max-vram-gb", "8")
        assert code == 2
        assert "without a GPU" in err
        gpu = [make_record(device="H100", device_type="cuda", peak_bytes=int(7.5 * GIB))]
        code, out, _ = run("recommend", "--max-vram-gb", "8", records=gpu)
        assert code == 0
        assert "On this card the process held 9.00 GiB" in out
        assert "limits.vram_gb=8" in out

    def test_runners_up_that_may_be_as_fast(self, run):
        records = [make_record(seconds=8.0), make_record(attention="sdpa", seconds=7.9)]
        assert "not shown to be slower: the intervals overlap" in run("recommend", records=records)[1]

    def test_an_answer_for_each_clip(self, run):
        records = [make_record(), make_record(frames=7)]
        out = run("recommend", records=records)[1]
        assert out.count("The fastest of 1 measured") == 2

    def test_nothing_went_well(self, run):
        code, _, err = run("recommend", records=[make_record(status="failed")])
        assert (code, "nothing to recommend" in err) == (2, True)

    @pytest.mark.parametrize("value", ["-1", "x", "nan"])
    def test_bounds_are_positive_numbers(self, run, value):
        with pytest.raises(SystemExit) as stop:
            run("recommend", "--max-latency-s", value)
        assert stop.value.code == 2


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

    def test_nothing_in_common(self, tmp_path, capsys):
        code, _, err = self.compare(tmp_path, capsys, [make_record()], [make_record(weights="pretrained")])
        assert code == 2
        assert "other weights" in err


class TestTable:
    def test_markdown(self, run):
        code, out, _ = run("table")
        assert code == 0
        assert "| precision=amp (disturbed) | ok | 4.00 s (3.88 to 4.12) | 2.00x (1.92 to 2.09) unpaired |" in out
        assert "| published | ok | 8.00 s (7.76 to 8.24) |  | 1,000 MiB | identical |" in out
        assert "unsupported: needs CUDA \\| and more" in out
        assert "numerical agreement with the fp32 reference, not visual quality" in out

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

    def test_several_clips_are_told_apart(self, run):
        out = run("table", records=[make_record(), make_record(frames=7)])[1]
        assert "sample, 7 frames of 160x128" in out

    def test_into_a_file(self, run, tmp_path):
        assert run("table", "-o", str(tmp_path / "deep" / "table.md"))[1] == ""
        assert "precision=amp" in (tmp_path / "deep" / "table.md").read_text()


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
from analysis.__main__ import main
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
