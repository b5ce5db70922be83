"""The rule on doubtful figures, and that nothing which states a figure breaks it."""

import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records_fixture import PUBLISHED, make_record, write_sweep

from analysis import load, variants_table
from analysis.commands import recommend, table
from analysis.commands.claims import INCONCLUSIVE, evaluate
from analysis.commands.compare import compare
from analysis.plots import cost, quality
from analysis.plots.base import styled
from analysis.report import header
from analysis.report.collect import rows_of as report_rows
from analysis.report.findings import findings
from analysis.results import soundness
from analysis.results.pooling import rows_of

BUSY = "other processes kept 1.3 of 2 cores busy, more than 0.2"
VARIANTS = ({}, {"attention": "sdpa"}, {"precision": "amp"}, {"attention": "sdpa", "precision": "amp"})


class TestFastest:
    """A variant of fewer seconds in a slower process: paired, the other one is faster."""

    RECORDS = (
        make_record(seconds=3.1),
        make_record(precision="amp", seconds=2.60, paired=1.10),
        make_record(attention="sdpa", precision="amp", seconds=2.68, paired=1.17),
    )

    def test_report_and_recommend_name_the_same(self, tmp_path):
        frame = load(write_sweep(tmp_path, self.RECORDS))
        fastest = findings(report_rows(frame))[0]
        assert fastest.row.name == "attention=sdpa,precision=amp"
        fitting, _ = recommend.recommend(rows_of(variants_table(frame)), [], "speed")
        assert [row["variant.name"] for row in fitting] == [fastest.row.name, "precision=amp", "published"]

    def test_by_seconds_where_a_speedup_is_missing(self, tmp_path):
        frame = load(write_sweep(tmp_path, [*self.RECORDS[1:], make_record(correlation="on_demand", seconds=2.65)]))
        fitting, _ = recommend.recommend(rows_of(variants_table(frame)), [], "speed")
        assert fitting[0]["variant.name"] == "precision=amp"


class TestDoubts:
    def test_of_a_time(self, pooled):
        rows = pooled(make_record(disturbed=[BUSY]), make_record(attention="sdpa", latency__ci95_s=None))
        assert soundness.time_doubt(rows["published"]) == f"published was disturbed while it was timed ({BUSY})"
        assert soundness.time_doubt(rows["attention=sdpa"]) == "attention=sdpa was timed too few times for an interval"

    def test_of_an_unpaired_speedup_by_its_baseline(self, pooled):
        rows = pooled(make_record(seconds=190.0, disturbed=[BUSY]), make_record(attention="sdpa", seconds=4.8))
        assert rows["attention=sdpa"]["doubt.speedup"] == rows["published"]["doubt.latency"]
        assert "doubt.own" not in rows["attention=sdpa"]
        assert "doubt.again" not in rows["attention=sdpa"]

    def test_a_pair_does_not_depend_on_the_published_row(self, pooled):
        rows = pooled(make_record(seconds=190.0, disturbed=[BUSY]), make_record(attention="sdpa", paired=1.3))
        assert "doubt.speedup" not in rows["attention=sdpa"]

    def test_of_a_pair_by_its_own_run(self, pooled):
        rows = pooled(
            make_record(attention="sdpa", paired=1.3, disturbed=[BUSY]),
            make_record(precision="amp", paired=1.3, speedup={"baseline": "published#1", "median": 1.3, "ci95": None}),
        )
        assert "was disturbed" in rows["attention=sdpa"]["doubt.speedup"]
        assert "too few pairs" in rows["precision=amp"]["doubt.speedup"]

    def test_busy_processes_do_not_change_memory_and_swapping_does(self, pooled):
        swapped = "the system swapped: 120 MiB more in swap"
        rows = pooled(
            make_record(disturbed=[BUSY]),
            make_record(attention="sdpa", disturbed=[BUSY, swapped]),
            make_record(precision="amp", disturbed=[swapped], device="H100", device_type="cuda"),
        )
        assert "doubt.memory" not in rows["published"]
        assert swapped in rows["attention=sdpa"]["doubt.memory"]
        assert "doubt.memory" not in rows["precision=amp"], "torch counts VRAM itself"

    def test_swapping_is_known_by_the_words_of_the_records(self):
        state = pytest.importorskip("experiments.system.machine_state")
        before = {"swap_used_bytes": 0, "monotonic_s": 0.0}
        (sentence,) = state.disturbances(before, {"swap_used_bytes": 2**30, "monotonic_s": 9.0})
        assert sentence.startswith(soundness.SWAPPED)


class TestAgain:
    def test_in_the_place_of_the_doubtful_record(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        records = [make_record(seconds=190.0, disturbed=[BUSY]), make_record(attention="sdpa", seconds=6.0)]
        write_sweep(tmp_path / "sweep", records)
        row = rows_of(variants_table(load("sweep")))[0]
        assert row["doubt.again"].endswith(" hydra.run.dir=sweep/0")
        folder = row["doubt.again"].rpartition("=")[2]
        write_sweep(tmp_path / folder / "..", [make_record(seconds=8.0)], parquet=False)  # as that command does
        rows = {row["variant.label"]: row for row in rows_of(variants_table(load("sweep")))}
        assert rows["attention=sdpa"]["speedup.median"] == pytest.approx(8 / 6)
        assert not any(key.startswith("doubt") for row in rows.values() for key in row)

    def test_beside_it_where_it_has_no_folder(self):
        known = {"disturbed": [BUSY], "latency.ci95_s": [1.0, 2.0]}
        row = known | {"variant.id": "attention=sdpa,precision=amp#12345678", "path": "x.tar/0/record.json"}
        assert soundness.again(row) == "python run.py attention=sdpa precision=amp"
        assert soundness.again(known | {"variant.id": "published#1"}) == "python run.py"

    def test_for_longer_where_an_interval_is_missing(self):
        row = {"run.command": "python run.py measure.max_seconds=10", "latency.median_s": 8.0, "speedup.median": 1.2}
        row["disturbed"] = [BUSY]
        asked = dict(part.split("=") for part in shlex.split(soundness.again(row))[2:])
        assert asked == {
            "measure.min_samples": "3",
            "measure.max_samples": "30",
            "measure.max_seconds": "48",
            "measure.min_pairs": "6",
        }


class TestTyped:
    def test_an_install_without_run_py_has_another_command(self, tmp_path, monkeypatch):
        frame = load(write_sweep(tmp_path, [make_record(disturbed=[BUSY])], parquet=False))
        in_checkout = self.commands(frame)
        assert all(command.startswith("python run.py") for command in in_checkout)
        monkeypatch.setattr(soundness, "RUN", tmp_path / "run.py")
        assert self.commands(frame) == [command.replace("python run.py", "propainter-bench") for command in in_checkout]
        assert rows_of(frame)[0]["run.command"].startswith("python run.py"), "the record's own text stays"

    def commands(self, frame) -> list[str]:
        row, shown = rows_of(variants_table(frame))[0], report_rows(frame)[0]
        claims = [command for claim in evaluate(frame) for command in claim["commands"]]
        return [row["doubt.again"], shown.command, shown.again, table.COLUMNS["command"](row), *claims]


@st.composite
def sweeps(draw):
    """Records of some variants, of which some were disturbed and some have no interval."""
    records = []
    for repeat, variant in draw(
        st.lists(st.tuples(st.integers(0, 1), st.sampled_from(VARIANTS)), min_size=1, max_size=6)
    ):
        pick = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        record = make_record(
            **variant,
            repeat=repeat,
            seconds=draw(st.sampled_from([1.0, 5.0, 8.0, 190.0])),
            paired=draw(st.sampled_from([0.5, 1.3, 39.0])) if pick[0] and variant else None,
            disturbed=[BUSY] if draw(st.booleans()) else [],
            psnr_hole_db=draw(st.sampled_from([30.0, 48.0])) if variant else None,
        )
        if pick[1]:
            record["latency"]["ci95_s"] = None
        if pick[2] and record["speedup"]:
            record["speedup"]["ci95"] = None
        records.append(record)
    return records


def name_of(record) -> str:
    return (
        ",".join(f"{g}={record['variant'][g]}" for g in PUBLISHED if record["variant"][g] != PUBLISHED[g])
        or "published"
    )


def sound_names(records) -> tuple[set[str], set[str]]:
    """Names whose latency may be stated, and whose speedup over published may be, by the records themselves."""
    times, speedups = set(), set()
    for name in sorted({name_of(record) for record in records}, key=lambda name: name != "published"):
        mine = [record for record in records if name_of(record) == name]
        quiet = [record for record in mine if not record["disturbed"]]
        if len(quiet) > 1 or any(record["latency"]["ci95_s"] for record in quiet):
            times.add(name)
        paired = [record["speedup"] for record in quiet if record["speedup"]]
        if len(paired) > 1 or any(pair["ci95"] for pair in paired):
            speedups.add(name)
        if not any(record["speedup"] for record in quiet or mine) and {name, "published"} <= times:
            speedups.add(name)
    return times, speedups - {"published"}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(records=sweeps())
def test_no_figure_is_stated_that_is_doubtful(records):
    with TemporaryDirectory() as folder:
        frame = load(write_sweep(Path(folder), records, parquet=False))
    flat, rows = rows_of(variants_table(frame)), report_rows(frame)
    times, speedups = sound_names(records)

    for card in findings(rows):
        if card.kind == "smallest" or card.row is None:
            continue
        if card.unit in ("the speed of published", "as fast as published"):
            assert card.row.name in speedups
        elif card.unit == "s":
            assert card.row.name in times
        else:
            assert (card.row.name, card.figure) == ("published", "1x")
        if not times:
            assert card.unit != "s"
    stated = header.line(rows)["fastest"]
    if stated.endswith(" s"):
        assert stated.split(":")[0] in times
    for row in rows:
        assert (row.sound_latency_s is not None) == (row.name in times)
        assert (row.sound_speedup is not None) == (row.name in speedups)

    fitting, rest = recommend.recommend(flat, [], "speed")
    assert {row["variant.label"] for row in fitting} == times and not rest
    text, fits = recommend.answer(flat, [], "speed")
    assert fits == bool(times)
    shown = re.findall(r"^  (\S+)\n    .*published's speed", text, re.MULTILINE)
    assert set(shown) <= speedups

    with styled():
        if (drawing := cost.waterfall(rows)) is not None:
            assert drawing.lines[0][0] in times
            assert len(drawing.lines) <= len(times) + 1
        if (drawing := cost.speedup_bars(rows)) is not None:
            assert {line[0] for line in drawing.lines} == speedups
        if (drawing := quality.interaction(rows)) is not None:
            named = {"manual, fp32": "published", "sdpa, fp32": "attention=sdpa", "manual, amp": "precision=amp"}
            for options, speed, _ in drawing.lines:
                known = named.get(options, "attention=sdpa,precision=amp")
                assert speed == "doubtful" or known in speedups or known == "published" or not speed.endswith("x")

    for claim in evaluate(frame):
        for measured in claim["measured"]:
            if measured["figure"] == "speedup" and measured["verdict"] not in (None, INCONCLUSIVE):
                assert measured["variant"] in speedups
            if measured["figure"] == "seconds" and measured["verdict"] not in (None, INCONCLUSIVE):
                assert measured["variant"] in times

    for line in compare(flat, flat).splitlines():
        if line.startswith("| ") and "x (" in line:
            assert line.split(" | ")[0].strip("| ") in times
