"""Plots of time and memory: drawn where the records have what they show, with what they show in words."""

import pytest
from support.records_fixture import make_record
from support.sweeps import one_by_one

from analysis.plots import cost as plots_cost
from analysis.report.findings import findings

MIB = 2**20


class TestCost:
    def test_waterfall(self, rows):
        drawing = plots_cost.waterfall(rows(*one_by_one()))
        assert drawing.lines[0][:2] == ["published", "8"]
        assert drawing.lines[1] == ["+ attention=sdpa", "6", "1.33x", "1.33x"]
        assert drawing.lines[2] == ["+ precision=amp", "4", "1.50x", "2.00x"]
        assert drawing.lines[3] == ["+ compile=default", "5", "0.80x", "1.60x"]
        assert "precision=amp: 4 s" in drawing.alt

    def test_waterfall_goes_by_paired_speedups(self, rows):
        drawing = plots_cost.waterfall(
            rows(make_record(seconds=8), make_record(attention="sdpa", seconds=7.9, paired=2.0))
        )
        assert drawing.lines[1][3] == "2.00x"
        assert "pairs" in drawing.caption

    def test_waterfall_ends_with_the_fastest_where_that_is_no_step(self, rows):
        steps = plots_cost.waterfall(rows(*one_by_one()))
        drawing = plots_cost.waterfall(rows(*one_by_one(), make_record(precision="amp_all", seconds=2, noise=0.01)))
        assert drawing.lines == [*steps.lines, ["fastest: precision=amp_all", "2", "", "4.00x"]]
        bar = drawing.figure.axes[0].patches[-1]
        assert (bar.get_x(), bar.get_width()) == (0, pytest.approx(2, rel=0.02))
        assert "fastest" in drawing.caption and "fastest" not in steps.caption

    def test_waterfall_leaves_out_doubtful_times(self, rows):
        records = one_by_one()
        records[3]["disturbed"] = ["load 3.0"]
        drawing = plots_cost.waterfall(rows(*records))
        assert [line[0] for line in drawing.lines] == ["published", "+ attention=sdpa", "+ precision=amp"]
        assert "Left out: 1 variant with a doubtful figure." in drawing.caption
        records[0]["disturbed"] = ["load 3.0"]
        drawing = plots_cost.waterfall(rows(*records))
        assert [line[0] for line in drawing.lines][0] == "attention=sdpa", "not published, whose time is doubtful"

    def test_no_bar_of_a_doubtful_speedup(self, rows):
        slow = make_record(seconds=190.0, disturbed=["load 3.0"])
        assert plots_cost.speedup_bars(rows(slow, *one_by_one()[1:])) is None
        drawing = plots_cost.speedup_bars(rows(slow, make_record(attention="sdpa", paired=1.3), *one_by_one()[2:]))
        assert [line[:2] for line in drawing.lines] == [["attention=sdpa", "1.30x"]]
        assert "Left out: 3 variants with a doubtful figure." in drawing.caption
        assert "39" not in drawing.alt

    def test_memory_stays_beside_busy_processes_and_not_beside_swapping(self, rows):
        busy = [make_record(disturbed=["load 3.0"]), make_record(attention="sdpa", disturbed=["load 3.0"])]
        assert len(plots_cost.memory_bars(rows(*busy)).lines) == 2
        swapped = make_record(precision="amp", disturbed=["the system swapped: 90 MiB more in swap"])
        assert len(plots_cost.memory_bars(rows(*busy, swapped)).lines) == 2

    def test_no_front_of_disturbed_times(self, rows):
        slow = make_record(seconds=190.0, disturbed=["load 3.0"])
        drawing = plots_cost.pareto(rows(slow, *one_by_one()[1:]), "agreement")
        assert "published" not in [line[0] for line in drawing.lines]
        assert "Left out: 1 variant" in drawing.caption

    def test_no_front_of_times_without_an_interval(self, rows):
        swapped = make_record(precision="half", disturbed=["the system swapped: 90 MiB more in swap"])
        few = make_record(precision="amp_all", seconds=1.0, peak_bytes=MIB, latency__ci95_s=None)
        drawing = plots_cost.pareto(rows(few, swapped, *one_by_one()), "agreement")
        assert not {"precision=amp_all", "precision=half"} & {line[0] for line in drawing.lines}
        assert "Left out: 2 variants with a doubtful figure." in drawing.caption

    def test_the_fastest_bar_is_of_the_variant_that_the_findings_name(self, rows):
        few = make_record(precision="amp_all", seconds=4.2, paired=2.5, latency__ci95_s=None)
        found = rows(*one_by_one(), few)
        assert findings(found)[0].row.name == "precision=amp_all"
        drawing = plots_cost.waterfall(found)
        assert drawing.lines[-1] == ["fastest: precision=amp_all", "3.2", "", "2.50x"]
        assert "Left out" not in drawing.caption

    def test_speedup_hatches_what_is_not_sure(self, rows):
        drawing = plots_cost.speedup_bars(rows(*one_by_one()))
        assert [line[0] for line in drawing.lines][0] == "attention=sdpa,precision=amp"
        bars = drawing.figure.axes[0].patches
        assert [bool(bar.get_hatch()) for bar in bars] == [False, False, False, True]

    def test_memory(self, rows):
        drawing = plots_cost.memory_bars(rows(*one_by_one()))
        assert drawing.lines[0][:2] == ["residency=lean", "200"]
        assert "[MiB]" in drawing.figure.axes[0].get_xlabel()

    def test_memory_of_repeats_has_its_range(self, rows):
        sizes = [make_record(repeat=n, peak_bytes=(300 + 10 * n) * MIB) for n in range(3)]
        drawing = plots_cost.memory_bars(rows(*sizes, make_record(attention="sdpa")))
        assert ["published", "320", "300 to 320", "3"] in drawing.lines

    def test_pareto(self, rows):
        drawing = plots_cost.pareto(rows(*one_by_one()), "agreement")
        assert [line[0] for line in drawing.lines if line[-1]] == ["attention=sdpa,precision=amp", "residency=lean"]
        assert "agreement" in drawing.title

    def test_one_variant_alone_has_nothing_to_be_compared_with(self, rows):
        alone = rows(make_record())
        for draw in (plots_cost.waterfall, plots_cost.speedup_bars, plots_cost.memory_bars):
            assert draw(alone) is None
        assert plots_cost.pareto(alone, "quality") is None

    def test_of_many_variants_the_notable_ones_are_drawn_and_the_others_counted(self, rows):
        many = [make_record(chunking="fixed", options={"chunking": {"size": n}}, seconds=9 + n) for n in range(60)]
        drawing = plots_cost.memory_bars(rows(make_record(), *many))
        assert len(drawing.lines) == plots_cost.MOST_BARS
        assert "of 61 variants" in drawing.caption
