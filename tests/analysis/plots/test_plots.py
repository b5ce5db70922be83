"""Plots of a report: each is drawn where the records have what it shows, and says in words what it shows."""

import re
import xml.etree.ElementTree as tree

import pytest
from PIL import Image
from support.records_fixture import make_record, write_sweep

from analysis.plots import base as plots
from analysis.plots import cost as plots_cost
from analysis.plots import quality as plots_quality
from analysis.plots import scaling as plots_growth
from analysis.plots import stages as plots_stages
from analysis.records.load import load
from analysis.report.collect import rows_of
from analysis.results.rows import chain, notable, pareto_front

MIB = 2**20


@pytest.fixture
def rows(tmp_path):
    """rows(record, ...): the report's rows of these records."""

    def make(*records):
        return rows_of(load(write_sweep(tmp_path / str(len(list(tmp_path.iterdir()))), records, parquet=False)))

    return make


@pytest.fixture(autouse=True)
def style():
    with plots.styled():
        yield


def one_by_one():
    """Three techniques added one by one, and one that stands beside them."""
    return [
        make_record(seconds=8.0, noise=0.01),
        make_record(attention="sdpa", seconds=6.0, noise=0.01),
        make_record(attention="sdpa", precision="amp", seconds=4.0, psnr_hole_db=48.0, noise=0.01),
        make_record(attention="sdpa", precision="amp", compile="default", seconds=5.0, psnr_hole_db=47.0, noise=0.01),
        make_record(residency="lean", seconds=8.1, peak_bytes=200 * MIB, psnr_hole_db=None, noise=0.01),
    ]


class TestChain:
    def test_each_step_keeps_what_was_changed_and_adds_one(self, rows):
        steps = chain(rows(*one_by_one()))
        assert [row.name for row in steps] == [
            "published",
            "attention=sdpa",
            "attention=sdpa,precision=amp",
            "attention=sdpa,precision=amp,compile=default",
        ]

    def test_of_equal_chains_the_faster_and_of_longer_the_longer(self, rows):
        two = chain(
            rows(make_record(), make_record(attention="sdpa", seconds=5.0), make_record(precision="amp", seconds=4.0))
        )
        assert [row.name for row in two] == ["published", "precision=amp"]

    def test_without_a_single_step_a_larger_one_is_taken(self, rows):
        steps = chain(rows(make_record(), make_record(attention="sdpa", precision="amp")))
        assert steps[1].added_to(steps[0]) == ["attention=sdpa", "precision=amp"]

    def test_variants_that_have_nothing_in_common_make_no_chain(self, rows):
        assert len(chain(rows(make_record(attention="sdpa"), make_record(precision="amp")))) == 1
        assert chain([]) == []

    def test_settings_of_an_option_tell_steps_apart(self, rows):
        sized = [make_record(chunking="fixed", options={"chunking": {"size": size}}, seconds=size) for size in (4, 8)]
        found = rows(make_record(seconds=10), *sized)
        assert [row.changes for row in found[1:]] == [
            {"chunking": "chunking=fixed (size=4)"},
            {"chunking": "chunking=fixed (size=8)"},
        ]
        assert len(chain(found)) == 2


def test_the_front_has_what_nothing_beats_in_both(rows):
    found = rows(
        make_record(seconds=8, peak_bytes=100 * MIB),
        make_record(attention="sdpa", seconds=4, peak_bytes=300 * MIB),
        make_record(precision="amp", seconds=5, peak_bytes=200 * MIB),
        make_record(compile="default", seconds=6, peak_bytes=250 * MIB),
    )
    assert [row.name for row in pareto_front(found)] == ["published", "precision=amp", "attention=sdpa"]


def test_the_notable_ones_are_kept_in_their_order(rows):
    found = rows(
        *(make_record(chunking="fixed", options={"chunking": {"size": n}}, seconds=20 + n) for n in range(20)),
        make_record(attention="sdpa", seconds=2, peak_bytes=900 * MIB),
        make_record(residency="lean", seconds=9, peak_bytes=100 * MIB),
        make_record(precision="amp", seconds=9, psnr_hole_db=12.0),
        make_record(seconds=50),
    )
    assert [row.name for row in notable(found, 4)] == ["attention=sdpa", "residency=lean", "precision=amp", "published"]


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

    def test_stages(self, rows):
        drawing = plots_stages.stages(rows(*one_by_one()))
        assert drawing.header[1:] == ["flow [s]", "completion [s]", "propagation [s]", "generation [s]"]
        assert drawing.lines[0] == ["attention=sdpa,precision=amp", "1.68", "0.28", "0.04", "2"]
        assert "generation takes longest" in drawing.alt

    def test_fraction_of_peak_only_where_counted(self, rows):
        assert plots_stages.fraction_of_peak(rows(*one_by_one())).lines[0][1] == "40"
        bare = make_record(stages__flow__fraction_of_peak=None)
        for stage in ("completion", "propagation", "generation"):
            bare["stages"][stage]["fraction_of_peak"] = None
        assert plots_stages.fraction_of_peak(rows(bare)) is None

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


class TestQuality:
    def test_psnr_per_frame_leaves_out_identical_ones(self, rows):
        drawing = plots_quality.psnr_per_frame(rows(*one_by_one()), "agreement")
        assert [line[0] for line in drawing.lines] == [
            "attention=sdpa,precision=amp,compile=default",
            "attention=sdpa,precision=amp",
            "attention=sdpa",
        ]
        assert drawing.lines[0][1:3] == ["47.0", "0"]
        assert plots_quality.psnr_per_frame(rows(make_record()), "quality") is None

    def test_interaction_takes_the_crossed_groups(self, rows):
        crossed = [
            make_record(seconds=8),
            make_record(attention="sdpa", seconds=4),
            make_record(precision="amp", seconds=4),
            make_record(attention="sdpa", precision="amp", seconds=2),
            make_record(attention="sdpa", precision="half", status="unsupported"),
            make_record(compile="default", seconds=7),
        ]
        drawing = plots_quality.interaction(rows(*crossed))
        assert ["sdpa, amp", "4.00x", "4.00x"] in drawing.lines
        assert ["sdpa, half", "unsupported", ""] in drawing.lines
        assert ["manual, fp32", "1.00x", ""] in drawing.lines

    def test_groups_that_were_not_crossed_make_no_grid(self, rows):
        assert plots_quality.interaction(rows(make_record(), make_record(attention="sdpa"))) is None


class TestGrowth:
    def test_exponents(self):
        sizes = [10, 20, 40, 80]
        assert plots_growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
        assert plots_growth.exponent(sizes, [7.0] * 4) == pytest.approx(0, abs=1e-12)
        assert plots_growth.exponent(sizes[:2], [1, 2]) is None
        assert plots_growth.exponent(sizes, [1, 2, float("nan"), 8]) == pytest.approx(1)

    def test_with_frames_at_one_size_and_pixels_at_one_count(self, rows):
        frames = [make_record(frames=n, seconds=0.5 * n**2, peak_bytes=n * MIB) for n in (10, 20, 40)]
        found = rows(*frames, make_record(frames=10, height=256, seconds=90))
        drawing = plots_growth.with_frames(found)
        assert drawing.lines == [["published", "10, 20, 40", "2.00", "1.00"]]
        assert plots_growth.with_pixels(found) is None
        pixels = [make_record(height=h, width=h, seconds=h**2 / 1e4) for h in (128, 256, 512)]
        assert plots_growth.with_pixels(rows(*pixels)).lines[0][2] == "1.00"


class TestRender:
    def test_files_and_the_element_for_the_page(self, rows, tmp_path):
        drawing = plots_stages.stages(rows(*one_by_one()))
        plot = plots.render(drawing, tmp_path / "plots")
        assert Image.open(tmp_path / "plots" / "stages.png").width > 700
        root = tree.parse(tmp_path / "plots" / "stages.svg").getroot()
        assert root.tag.endswith("svg")
        element = tree.fromstring(plot.inline)
        assert element.get("role") == "img"
        assert element.get("aria-label") == drawing.alt
        assert "currentColor" in plot.inline
        assert not any(colour in plot.inline for colour in (plots.INK, plots.GRID, plots.GROUND))

    def test_ids_of_two_plots_do_not_meet(self, rows, tmp_path):
        found = rows(*one_by_one())
        ids = []
        for drawing in (
            plots_stages.stages(found),
            plots_cost.speedup_bars(found),
            plots_cost.pareto(found, "quality"),
        ):
            element = tree.fromstring(plots.render(drawing, tmp_path).inline)
            mine = [node.get("id") for node in element.iter() if node.get("id")]
            values = [value for node in element.iter() for value in node.attrib.values()]
            used = {name for value in values for name in re.findall(r"(?:^|url\()#([\w-]+-[\w-]+)", value)}
            assert used
            assert used <= set(mine)
            ids += mine
        assert len(ids) == len(set(ids))

    def test_names_are_text_and_not_markup(self, rows, tmp_path):
        found = rows(make_record(), make_record(attention="<script>alert(1)</script>&"))
        plot = plots.render(plots_cost.memory_bars(found), tmp_path)
        assert "<script" not in plot.inline
        assert "$" not in plot.alt

    def test_dollars_in_names_are_no_formula(self, rows, tmp_path):
        plot = plots.render(plots_cost.memory_bars(rows(make_record(), make_record(attention=r"a$b_{$"))), tmp_path)
        assert "attention=a$b_{$" in plot.inline
