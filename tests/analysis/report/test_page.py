"""The report: what it says, that it is one file, and that it holds what the records hold."""

import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
from support.records_fixture import make_record, make_schema_1, write_sweep

from analysis.errors import InputError
from analysis.records.load import load
from analysis.report import findings as words
from analysis.report.collect import rows_of
from analysis.report.page import PLOTS, main, write_report

MIB = 2**20
VOID = {"meta", "link", "input", "img", "br", "hr", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """A page's elements, ids, references and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html, self.stack, self.ids, self.links, self.images, self.text = text, [], [], [], [], ""
        self.cells: list[list[str]] = []
        self.in_table = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[name] for name in ("href", "src", "xlink:href") if given.get(name)]
        if tag == "img":
            self.images.append(given)
        if tag == "table":
            self.in_table = given.get("id") == "table"
        if tag == "tr" and self.in_table:
            self.cells.append([])
        if tag in ("td", "th") and self.in_table:
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] in ("script", "style"):
            return
        self.text += data
        if self.in_table and self.cells and self.cells[-1] and "tr" in self.stack:
            self.cells[-1][-1] += data


def usual() -> list[dict]:
    return [
        make_record(seconds=8.0),
        make_record(attention="sdpa", seconds=6.0, paired=1.33),
        make_record(precision="amp", seconds=5.0, paired=1.6, psnr_hole_db=38.0, disturbed=["another process ran"]),
        make_record(residency="lean", seconds=9.0, paired=0.9, peak_bytes=200 * MIB, psnr_hole_db=None),
        make_record(precision="half", status="unsupported", reason="no <half> & such on this cpu"),
        make_record(compile="default", status="failed", reason="SomeError: broken"),
    ]


@pytest.fixture
def report(tmp_path, monkeypatch):
    """report(record, ...) writes a sweep and its report, without plots unless asked for; the page."""

    def make(*records, with_previews=False, with_plots=False):
        if not with_plots:
            monkeypatch.setattr("analysis.report.page._plots", lambda *given: [])
        folder = write_sweep(tmp_path / "sweep", records, with_previews=with_previews, parquet=False)
        return Page(write_report([folder]).read_text())

    return make


def squeezed(text: str) -> str:
    return " ".join(text.split())


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
        assert (disturbed[0], disturbed[7]) == ("precision=ampanother process ran", "ok disturbed")
        assert lines["residency=lean"][4] == "identical"

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
        assert "too few timed runs" in page.text
        assert "There is no interval: on this measurement it may be no faster" in page.text

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
        assert len(page.cells[1]) == 10, "one more column says which setting"

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


class TestWords:
    def rows(self, tmp_path, *records):
        return rows_of(load(write_sweep(tmp_path / "sweep", records, parquet=False)))

    def test_fastest_smallest_best(self, tmp_path):
        cards = {card.kind: card for card in words.findings(self.rows(tmp_path, *usual()))}
        assert cards["fastest"].row.name == "precision=amp"
        assert cards["fastest"].figure == "1.60x"
        assert cards["fastest"].interval == "95% interval 1.55x to 1.65x, measured in pairs"
        assert cards["fastest"].command.startswith("python run.py precision=amp ")
        assert ("Disturbed", "1 sign, see the table") in cards["fastest"].costs
        assert cards["smallest"].row.name == "residency=lean"
        assert cards["smallest"].sentence == "43% less memory than published (352 MiB)."
        assert ("Latency", "9.00 s, 0.90x the speed") in cards["smallest"].costs
        assert cards["best"].row.name == "attention=sdpa", "amp is under the bound"
        assert "at least 40 dB" in cards["best"].sentence

    def test_nothing_is_called_faster_that_may_be_as_fast(self, tmp_path):
        rows = self.rows(tmp_path, make_record(seconds=8.0), make_record(attention="sdpa", seconds=7.9, paired=1.01))
        fastest, _, best = words.findings(rows)
        assert fastest.sentence.startswith("The interval does not leave out 1")
        assert "may be no faster" in best.sentence

    def test_those_that_intervals_do_not_tell_apart_are_named(self, tmp_path):
        rows = self.rows(
            tmp_path,
            make_record(seconds=8.0),
            make_record(attention="sdpa", seconds=4.0, paired=2.0),
            make_record(precision="amp", seconds=4.05, paired=1.98),
        )
        assert words.findings(rows)[0].sentence.endswith("Not told apart from it by their intervals: precision=amp.")

    def test_published_may_win(self, tmp_path):
        rows = self.rows(tmp_path, make_record(seconds=4.0), make_record(attention="sdpa", seconds=8.0, paired=0.5))
        fastest, smallest, best = words.findings(rows)
        assert fastest.sentence == "No variant that was measured is faster than the published one."
        assert fastest.figure == "4.00"
        assert best.row.published

    def test_nothing_within_the_bound(self, tmp_path):
        card = words.findings(self.rows(tmp_path, make_record(precision="amp", psnr_hole_db=20.0)))[-1]
        assert (card.row, card.command, card.figure) == (None, None, "none")

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

    def test_a_speedup_over_another_variant_is_none_over_published(self, tmp_path, report):
        record = make_record(precision="amp", paired=3.0)
        record["speedup"]["baseline"] = "attention=sdpa#12345678"
        page = report(record, make_record(compile="default", paired=1.2, seconds=7))
        assert any("over attention=sdpa" in squeezed(line[2]) for line in page.cells)
        assert "3.00x" not in squeezed(page.text).split("All variants")[1].split("Filter")[0]


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
