"""Plots of the stages."""

from support.records_fixture import make_record
from support.sweeps import one_by_one

from analysis.plots import stages as plots_stages


class TestStages:
    def test_stages(self, rows):
        drawing = plots_stages.stages(rows(*one_by_one()))
        assert drawing.header[1:] == ["flow [s]", "completion [s]", "propagation [s]", "generation [s]"]
        assert drawing.lines[0] == ["attention=sdpa,precision=amp", "1.68", "0.28", "0.04", "2"]
        assert "generation takes longest" in drawing.alt

    def test_doubtful_times_are_left_out(self, rows):
        slow = make_record(seconds=190.0, disturbed=["load 3.0"])
        for draw in (plots_stages.stages, plots_stages.fraction_of_peak):
            few = make_record(precision="amp", latency__ci95_s=None)
            drawing = draw(rows(slow, few, make_record(attention="sdpa")))
            assert [line[0] for line in drawing.lines] == ["attention=sdpa"]
            assert "Left out: 2 variants" in drawing.caption
            assert draw(rows(slow)) is None

    def test_fraction_of_peak_only_where_counted(self, rows):
        assert plots_stages.fraction_of_peak(rows(*one_by_one())).lines[0][1] == "40"
        bare = make_record(stages__flow__fraction_of_peak=None)
        for stage in ("completion", "propagation", "generation"):
            bare["stages"][stage]["fraction_of_peak"] = None
        assert plots_stages.fraction_of_peak(rows(bare)) is None
