"""The plot of speed against loss to the truth."""

import pytest
from support.evaluation_fixture import make_evaluation, make_variant
from support.records_fixture import make_record

from analysis.plots import truth as plots_truth
from analysis.records.evaluation import from_document


def drawing(*variants, **changes):
    return plots_truth.of_evaluation(from_document(make_evaluation(*variants, **changes), "there"))


def vertical(figure) -> list[list[float]]:
    """The ends of the vertical bars."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "_"]
    return [sorted(map(float, line.get_ydata())) for line in lines]


class TestEvaluation:
    def test_points_with_both_intervals(self):
        drawn = drawing()
        assert drawn.lines == [
            ["published", "1.00x", "0.000", ""],
            ["precision=amp", "1.32x (1.25 to 1.39)", "0.020", "-0.010 to 0.050"],
            ["chunking=fixed", "0.95x (0.90 to 1.00)", "0.150", "0.100 to 0.200"],
        ]
        assert vertical(drawn.figure) == [pytest.approx([-0.01, 0.05]), pytest.approx([0.1, 0.2])]
        assert "Evaluation of synthetic, 20 videos" in drawn.caption and "precision=amp 1.32x, 0.020 dB" in drawn.alt

    def test_too_few_videos_are_said(self):
        drawn = drawing(videos=2)
        assert vertical(drawn.figure) == []
        assert "too few videos for an interval of the loss" in drawn.caption
        assert "Hollow points have a doubtful speed: precision=amp was timed on too few" in drawn.caption

    def test_what_failed_or_has_no_speed_is_left_out(self):
        amp = make_variant(precision="amp", difference_db=-0.1, half_width_db=0.1, speedup=1.2)
        failed = make_variant(attention="sdpa", difference_db=0.1, speedup=1.1, failed=1)
        drawn = drawing(amp, failed, make_variant(compile="default", difference_db=0.0))
        assert [line[0] for line in drawn.lines] == ["published", "precision=amp"]
        assert "Left out: 2 without a sound speed or a loss." in drawn.caption
        assert drawing(failed) is None
        assert drawing(weights="seeded") is None


def test_one_clip_has_no_interval_of_the_loss(rows):
    of = dict(weights="small", truth_db=23.9)
    records = [make_record(weights="small", truth_db=24.0), make_record(precision="amp", seconds=5.0, **of)]
    busy = make_record(attention="sdpa", seconds=3.0, disturbed=["load 3.0"], **of)
    drawn = plots_truth.of_rows(rows(*records, busy))
    assert drawn.lines[1] == ["precision=amp", "1.60x (1.53 to 1.67)", "0.100", ""]
    assert "Of one clip" in drawn.caption and "Left out: 1 without" in drawn.caption
    assert plots_truth.of_rows(rows(records[0])) is None
