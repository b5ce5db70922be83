"""Plots of quality, frame by frame and of two groups crossed."""

from support.records_fixture import make_record
from support.sweeps import one_by_one

from analysis.plots import quality as plots_quality


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

    def test_interaction_shows_no_doubtful_speedup(self, rows):
        crossed = [
            make_record(disturbed=["load 3.0"], seconds=190.0),
            make_record(attention="sdpa", seconds=4.0),
            make_record(precision="amp", paired=1.5),
            make_record(attention="sdpa", precision="amp", paired=2.0),
        ]
        drawing = plots_quality.interaction(rows(*crossed))
        assert ["sdpa, fp32", "doubtful", ""] in drawing.lines
        assert ["sdpa, amp", "2.00x", ""] in drawing.lines, "no product of a doubtful one"

    def test_groups_that_were_not_crossed_make_no_grid(self, rows):
        assert plots_quality.interaction(rows(make_record(), make_record(attention="sdpa"))) is None
