"""Plots of growth with frames and pixels."""

import pytest
from support.records_fixture import make_record

from analysis.plots import scaling as plots_growth

MIB = 2**20


class TestGrowth:
    def test_exponents(self):
        sizes = [10, 20, 40, 80]
        assert plots_growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
        assert plots_growth.exponent(sizes, [7.0] * 4) == pytest.approx(0, abs=1e-12)
        assert plots_growth.exponent(sizes[:2], [1, 2]) is None
        assert plots_growth.exponent(sizes, [1, 2, float("nan"), 8]) == pytest.approx(1)

    def test_doubtful_times_are_left_out(self, rows):
        frames = [make_record(frames=n, seconds=n) for n in (10, 20, 40)]
        busy = make_record(frames=80, seconds=8000, disturbed=["load 3.0"])
        few = make_record(frames=160, seconds=9000, latency__ci95_s=None)
        drawing = plots_growth.with_frames(rows(*frames, busy, few))
        assert drawing.lines == [["published", "10, 20, 40", "1.00", "0.00"]]
        assert "Left out: 2 variants with a doubtful figure." in drawing.caption

    def test_with_frames_at_one_size_and_pixels_at_one_count(self, rows):
        frames = [make_record(frames=n, seconds=0.5 * n**2, peak_bytes=n * MIB) for n in (10, 20, 40)]
        found = rows(*frames, make_record(frames=10, height=256, seconds=90))
        drawing = plots_growth.with_frames(found)
        assert drawing.lines == [["published", "10, 20, 40", "2.00", "1.00"]]
        assert plots_growth.with_pixels(found) is None
        pixels = [make_record(height=h, width=h, seconds=h**2 / 1e4) for h in (128, 256, 512)]
        assert plots_growth.with_pixels(rows(*pixels)).lines[0][2] == "1.00"
