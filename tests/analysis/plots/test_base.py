"""Drawings as files and as elements of the page."""

import re
import xml.etree.ElementTree as tree

from PIL import Image
from support.records_fixture import make_record
from support.sweeps import one_by_one

from analysis.plots import base as plots
from analysis.plots import cost as plots_cost
from analysis.plots import stages as plots_stages


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
