"""The report: what it says, that it is one file, and that it holds what the records hold."""

import json
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.evaluation_fixture import make_evaluation, make_variant, write_evaluation
from support.records_fixture import make_record, make_schema_1, write_sweep
from support.report_page import Page, squeezed
from support.sweeps import usual

from analysis.errors import InputError
from analysis.report.page import PLOTS, main, write_report

MIB = 2**20


class TestPage:
    def test_one_file_that_refers_to_nothing_else(self, report):
        page = report(*usual(), with_previews=True, with_plots=True)
        assert page.stack == []
        assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
        assert "url(" not in page.html.replace("url(#", "")
        assert [name for name, count in Counter(page.ids).items() if count > 1] == []
        assert all("alt" in image for image in page.images)
        assert '<html lang="en">' in page.html

    def test_all_rows_with_their_reasons(self, report):
        page = report(*usual())
        lines = {line[0]: line for line in ([squeezed(cell) for cell in cells] for cells in page.cells[1:])}
        assert len(lines) == 6
        assert lines["attention=sdpa"][1:4] == ["6.00 s ± 3%", "1.33x 1.29 to 1.37 paired", "352 MiB"]
        assert "no <half> & such on this cpu" in next(name for name in lines if name.startswith("precision=half"))
        disturbed = next(line for line in lines.values() if line[0].startswith("precision=amp"))
        assert (disturbed[0], disturbed[8]) == ("precision=ampanother process ran", "ok disturbed")
        assert lines["residency=lean"][4] == "identical"
        assert lines["residency=lean"][7] == "7.09 ref. 7.09"
        assert "6 records of 6 variants. Latency is the median of the timed runs" in squeezed(page.text)

    def test_the_table_and_the_plots_lie_beside_it(self, tmp_path):
        folder = write_sweep(tmp_path / "sweep", usual(), parquet=False)
        page = write_report([folder], tmp_path / "elsewhere" / "mine.html")
        there = {path.name for path in page.parent.iterdir()}
        assert there == {"mine.html", "mine.csv", "mine.md", "mine_plots"}
        assert "attention=sdpa" in (page.parent / "mine.md").read_text()
        assert len((page.parent / "mine.csv").read_text().splitlines()) == 7
        plots = {path.name for path in (page.parent / "mine_plots").iterdir()}
        assert {"speedup.png", "speedup.svg", "stages.png", "memory.svg"} <= plots
        assert {name.rsplit(".", 1)[0] for name in plots} <= PLOTS
        assert not (folder / "report.html").exists()

    @pytest.mark.slow
    def test_a_second_report_replaces_the_first(self, tmp_path):
        folder = write_sweep(tmp_path / "sweep", usual(), parquet=False)
        write_report([folder])
        (folder / "report_plots" / "own.png").touch()
        for number in (1, 2, 3, 4, 5):
            (folder / str(number) / "record.json").unlink()
        assert len(Page(write_report([folder]).read_text()).cells) == 2
        assert not (folder / "report_plots" / "speedup.png").exists()
        assert (folder / "report_plots" / "own.png").exists()

    def test_records_of_the_older_schema(self, report):
        page = report(make_schema_1(), make_schema_1(attention="sdpa", seconds=4))
        assert "python run.py attention=sdpa" in page.text
        assert "No variant has a sound time. published was timed too few times for an interval" in squeezed(page.text)
        assert "Nothing can be stated: published was timed too few times" in page.text
        assert "2.00x" not in page.text.split("All variants")[1].split("Filter")[0]

    def test_nothing_ran(self, report):
        page = report(
            make_record(status="out_of_memory", reason="too large"), make_record(attention="sdpa", status="failed")
        )
        assert "No variant was measured" in page.text
        assert "too large" in page.text

    def test_a_record_that_knows_nothing_but_its_status(self, report):
        bare = {"schema": 2, "status": "failed", "reason": "could not be composed"}
        assert "could not be composed" in report(bare, make_record()).text

    def test_several_settings_are_not_mixed(self, report):
        records = [make_record(seconds=8), make_record(attention="sdpa", seconds=4)]
        larger = [
            make_record(frames=50, seconds=80),
            make_record(frames=50, attention="sdpa", seconds=50),
            make_record(frames=50, precision="amp", seconds=60),
        ]
        page = report(*records, *larger)
        assert "These are of the setting in which most variants ran: 50 frames of 128x160" in squeezed(
            page.text
        ).replace("160x128", "128x160")
        assert "The same in the other settings" in page.text
        assert len(page.cells[1]) == 11, "one more column says which setting"

    def test_what_was_left_out_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr("analysis.report.page._plots", lambda *given: [])
        folder = write_sweep(tmp_path / "sweep", usual(), parquet=False)
        (folder / "0" / "record.json").write_text("{")
        text = Page(write_report([folder]).read_text()).text
        assert "One file was left out." in text
        assert "0/record.json" in text

    def test_names_and_reasons_are_text(self, report):
        evil = "</script><script>alert(1)</script>"
        page = report(
            make_record(attention=evil), make_record(status="failed", precision="half", reason=evil), with_previews=True
        )
        assert page.html.count("<script") == 2
        assert page.stack == []

    @pytest.mark.parametrize("source", ["seeded", "pretrained"])
    def test_seeded_weights_are_announced_first_and_wherever_quality_is_told(self, report, source):
        page = report(*(make_record(weights=source, **change) for change in ({}, {"attention": "sdpa", "seconds": 4})))
        seeded = source == "seeded"
        text = squeezed(page.text)
        assert ("Seeded weights." in text) is seeded
        assert ("85.0 dB in the hole (numerical agreement)" in text) is seeded
        assert ("Best within bounds of agreement" in text) is seeded
        assert ("Best within quality bounds" in text) is not seeded
        assert ("PSNR, SSIM and LPIPS are numerical agreement" in text) is seeded
        if seeded:
            assert text.index("Seeded weights.") < text.index("What to take from it")

    @pytest.mark.parametrize(("source", "trained"), [("small", True), ("seeded", False)])
    def test_small_networks_are_announced_first(self, report, source, trained):
        made = dict(weights=source, architecture="small")
        text = squeezed(report(make_record(**made), make_record(**made, attention="sdpa", seconds=4)).text)
        assert text.index("Small networks. These runs used narrower") < text.index("What to take from it")
        assert ("(weights=small) and were trained" in text) is trained
        assert ("numerical agreement" in text) is not trained
        assert "small networks, narrower than the published ones" in text

    def test_published_ones_beside_them_are_another_setting(self, report):
        small = [make_record(weights="small"), make_record(weights="small", attention="sdpa")]
        text = squeezed(report(*small, make_record(weights="pretrained", attention="sdpa")).text)
        assert "Small networks. Some of the runs are concerned." in text
        assert "small weights" in text and "pretrained weights" in text

    def test_a_speedup_over_another_variant_is_none_over_published(self, tmp_path, report):
        record = make_record(precision="amp", paired=3.0)
        record["speedup"]["baseline"] = "attention=sdpa#12345678"
        page = report(record, make_record(compile="default", paired=1.2, seconds=7))
        assert any("over attention=sdpa" in squeezed(line[2]) for line in page.cells)
        assert "3.00x" not in squeezed(page.text).split("All variants")[1].split("Filter")[0]


class TestTruth:
    """The section on quality against the truth, by an evaluation or by one clip."""

    def test_an_evaluation_beside_runs(self, tmp_path):
        folder = write_sweep(tmp_path / "sweep", usual()[:2], parquet=False)
        page = Page(write_report([folder, write_evaluation(tmp_path / "evaluation")]).read_text())
        text = squeezed(page.text)
        assert page.stack == [] and "truth" in page.ids and "plot-truth" in page.ids
        assert "synthetic, 20 videos, 320 frames of 432x240; small weights; AMD EPYC" in text
        assert "-0.020 (-0.050 to +0.010)" in text and "Above the line at 0 a variant is further" in text
        assert "2 records of 2 variants" in text, "those of single videos are not counted"
        assert "Small networks. Some of the runs are concerned." in text
        assert "| precision=amp | 20 |" in (folder / "report.md").read_text()
        assert (folder / "report_plots" / "truth.svg").exists()

    def test_an_evaluation_alone(self, tmp_path):
        folder = write_evaluation(tmp_path / "evaluation")
        page = Page(write_report([folder]).read_text())
        text = squeezed(page.text)
        assert page.stack == [] and not {"findings", "variants", "plots"} & set(page.ids)
        assert [link for link in page.links if link.startswith("#") and link[1:] not in page.ids] == []
        assert "synthetic, 20 videos" in text and "Small networks. These runs used narrower" in text
        assert "How quality was measured" in text and "Machine and weights" in text
        assert (folder / "report.csv").read_text().startswith("variant,id,dataset,videos,")
        assert (folder / "report.md").read_text().startswith("Quality against the truth: ")

    def test_several_evaluations_have_ids_of_their_own(self, tmp_path):
        folders = [
            write_evaluation(tmp_path / name, make_evaluation(dataset__name=name)) for name in ("davis", "synthetic")
        ]
        page = Page(write_report(folders).read_text())
        assert [name for name, count in Counter(page.ids).items() if count > 1] == []
        assert {"plot-truth", "plot-truth_2"} <= set(page.ids)

    def test_one_clip_where_there_is_no_evaluation(self, report):
        of = dict(weights="small", truth_db=23.9)
        records = [make_record(weights="small", truth_db=24.0), make_record(precision="amp", seconds=5, **of)]
        text = squeezed(report(*records, with_plots=True).text)
        assert "Quality against the truth" in text and "Of one clip, so that the loss has no interval" in text
        assert "experiment=evaluate measures it on many videos" in text

    def test_no_section_with_weights_that_were_not_learned(self, report):
        assert "Quality against the truth" not in report(*usual(), with_plots=True).text

    def test_a_damaged_evaluation_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("analysis.report.page._plots", lambda *given: [])
        folder = write_sweep(tmp_path / "sweep", usual()[:1], parquet=False)
        (folder / "evaluation.json").write_text("{")
        text = Page(write_report([folder]).read_text()).text
        assert "One file was left out." in text and "evaluation.json is left out" in text

    def test_names_are_text(self, tmp_path):
        evil = "</script><script>alert(1)</script>"
        document = make_evaluation(make_variant(attention=evil, difference_db=-0.1, speedup=1.1), dataset__name=evil)
        page = Page(write_report([write_evaluation(tmp_path, document)]).read_text())
        assert page.html.count("<script") == 1 and page.stack == []


class TestCommand:
    def test_the_path_is_printed(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("analysis.report.page._plots", lambda *given: [])
        folder = write_sweep(tmp_path / "sweep", usual(), parquet=False)
        assert main([folder], None) == 0
        assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"

    def test_no_record_is_one_sentence(self, tmp_path, capsys):
        assert main([tmp_path], None) == 2
        assert capsys.readouterr().err.count("\n") == 1
        with pytest.raises(InputError):
            write_report([tmp_path / "absent"])

    def test_a_target_that_cannot_be_written(self, tmp_path, capsys):
        folder = write_sweep(tmp_path / "sweep", usual(), parquet=False)
        (tmp_path / "file").touch()
        assert main([folder], tmp_path / "file" / "report.html") == 2
        assert "could not be written" in capsys.readouterr().err

    def test_it_imports_neither_torch_nor_the_model(self):
        heavy = {"torch", "propainter", "experiments", "matplotlib"}
        code = f"import analysis.report.page, sys; print(sorted({heavy} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_thousand_records_make_a_small_page_soon(tmp_path):
    records = [
        make_record(
            chunking="fixed",
            options={"chunking": {"size": n}},
            attention=("manual", "sdpa")[n % 2],
            precision=("fp32", "amp")[n // 2 % 2],
            seconds=4 + n % 97 / 10,
            peak_bytes=(100 + n % 89) * MIB,
            psnr_hole_db=30.0 + n % 61,
            repeat=0,
        )
        for n in range(999)
    ]
    folder = write_sweep(tmp_path / "sweep", [make_record(), *records], with_previews=False, parquet=False)
    pictures = write_sweep(tmp_path / "pictures", [make_record(psnr_hole_db=40.0)], with_previews=True, parquet=False)
    for number in range(1000):
        (folder / str(number) / "preview").symlink_to(pictures / "0" / "preview")
    start = time.process_time()  # whatever else the machine does
    page = write_report([folder])
    assert time.process_time() - start < 20
    assert page.stat().st_size < 15e6
    data = json.loads(page.read_text().split('id="viewer-data">')[1].split("</script>")[0])
    assert len(data["variants"]) + data["left_out"] == 1000
