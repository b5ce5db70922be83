"""Two pipelines in turn, by runs whose seconds are written down."""

from support.scripted import Scripted

from experiments.measure import paired as module
from experiments.measure.paired import run_interleaved
from experiments.measure.protocol import Timings
from experiments.measure.timing import Options
from experiments.record.sections import describe_speedup

OPTIONS = Options(0.1, min_pairs=6, max_samples=30, max_seconds=0)


def test_sides_take_turns_in_both_orders(monkeypatch):
    scripted = Scripted(a=[2.0], b=[1.0])
    monkeypatch.setattr(module, "timed_run", scripted)
    paired = run_interleaved("a", "b", (), OPTIONS)
    assert "".join(scripted.ran) == "abbaabbaabba"
    speedup = describe_speedup(Timings(paired=paired), {"id": "published#0"})
    assert (speedup["baseline"], speedup["pairs"], speedup["median"]) == ("published#0", 6, 2.0)
    assert speedup["stages"]["flow"]["median"] == speedup["stages"]["generation"]["median"] == 2.0
    assert "completion" not in speedup["stages"]
    assert (speedup["baseline_samples_s"], speedup["variant_samples_s"]) == ([2.0] * 6, [1.0] * 6)
    assert all(run.result.size == 0 for run in paired.runs)


def test_a_machine_that_slows_down_slows_both(monkeypatch):
    drift = [1.2**n for n in range(12)]
    monkeypatch.setattr(module, "timed_run", Scripted(a=drift, b=drift))
    interval = run_interleaved("a", "b", (), OPTIONS).ratios.interval
    assert interval.low <= 1 <= interval.high
