"""The search: bounds, what is measured once, what does not run, and that it beats chance on a table."""

import math
from itertools import pairwise

import pytest

from experiments.tasks.tuning.replay import by_chance, trials_until, tuned
from experiments.tasks.tuning.search import (
    GIB,
    NOT_RUN,
    UNKNOWN,
    Bounds,
    Outcome,
    Search,
    by_speed,
    combinations,
    front,
)

SPACE = {
    "attention": ["manual", "sdpa"],
    "precision": ["fp32", "amp", "amp_all"],
    "reuse": ["none", "exact", "flow"],
    "kernels": ["torch", "cpu"],
    "residency": ["resident", "lean", "offload"],
}

FACTORS = {
    "sdpa": 0.95,
    "amp": 0.8,
    "amp_all": 0.65,
    "exact": 0.55,
    "flow": 0.8,
    "cpu": 0.9,
    "lean": 1.05,
    "offload": 1.3,
}


def outcome_of(combination, bounds=None):
    """A made-up machine: each option has its factor, kernels=cpu does not run without reuse."""
    chosen = dict(combination)
    if chosen["kernels"] == "cpu" and chosen["reuse"] == "none":
        return Outcome.of({"status": "unsupported", "reason": "made up"}, bounds or Bounds())
    seconds = 8 * math.prod(FACTORS.get(option, 1.0) for option in chosen.values())
    peak = 2 * GIB * (0.5 if chosen["residency"] == "offload" else 0.8 if chosen["residency"] == "lean" else 1)
    psnr = {"fp32": 90.0, "amp": 50.0, "amp_all": 38.0}[chosen["precision"]]
    record = {
        "status": "ok",
        "latency": {"median_s": seconds},
        "memory": {"kind": "rss", "peak_bytes": peak},
        "quality": {"identical": False, "psnr_hole_db": psnr, "truth": None},
    }
    return Outcome.of(record, bounds or Bounds())


class TestBounds:
    RECORD = {
        "memory": {"kind": "vram", "peak_bytes": 3 * GIB},
        "quality": {
            "identical": False,
            "psnr_hole_db": 45.0,
            "truth": {"psnr_hole_db": 23.95, "reference_psnr_hole_db": 24.0},
        },
    }

    def test_each(self):
        excess = Bounds(2.0, None, 40.0, 0.1).excess(self.RECORD)
        assert excess == pytest.approx({"max_vram_gb": 1.0, "min_psnr_hole_db": -5.0, "max_psnr_loss_db": -0.05})

    def test_what_is_not_known_is_far_beyond(self):
        assert Bounds(max_memory_gb=8.0).excess(self.RECORD) == {"max_memory_gb": UNKNOWN}
        assert set(Bounds(1, 1, 1, 1).excess({}).values()) == {UNKNOWN}

    def test_identical_keeps_any_psnr(self):
        record = {"quality": {"identical": True, "psnr_hole_db": None}}
        assert Bounds(min_psnr_hole_db=99.0).excess(record)["min_psnr_hole_db"] < 0

    def test_a_run_that_failed_fits_nothing(self):
        outcome = Outcome.of({"status": "out_of_memory", "reason": "full"}, Bounds(min_psnr_hole_db=40))
        assert not outcome.fits and outcome.excess == {NOT_RUN: UNKNOWN, "min_psnr_hole_db": UNKNOWN}


class TestSearch:
    def test_each_combination_is_measured_once_until_all_are_known(self):
        small = {group: options[:2] for group, options in list(SPACE.items())[:3]}
        search, seen = Search(small, [], 0), []

        def measure(combination):
            seen.append(combination)
            return outcome_of((*combination, ("kernels", "torch"), ("residency", "resident")))

        while search.measure(measure) is not None:
            pass
        assert sorted(seen) == sorted(combinations(small)) and search.size == 8

    def test_those_of_the_start_come_first(self):
        start = list(combinations(SPACE))[5:8]
        search = Search(SPACE, start, 0)
        assert [search.measure(outcome_of).combination for _ in start] == start

    def test_the_same_seed_and_outcomes_take_the_same_way(self):
        def way():
            search = Search(SPACE, [], 7)
            return [search.measure(outcome_of).combination for _ in range(25)]

        assert way() == way()

    def test_the_front_is_within_the_bounds(self):
        bounds = Bounds(min_psnr_hole_db=40.0)
        search = Search(SPACE, [], 0)
        for _ in range(search.size):
            search.measure(lambda combination: outcome_of(combination, bounds))
        best = by_speed(search.trials)[0]
        assert dict(best.combination)["precision"] == "amp" and dict(best.combination)["residency"] == "resident"
        found = front(search.trials)
        assert found[-1] == best and len(found) == 3
        assert all(a.outcome.peak_bytes < b.outcome.peak_bytes for a, b in pairwise(found))

    @pytest.mark.slow
    def test_it_needs_fewer_trials_than_chance(self):
        """Of 108 combinations 2 are within 5% of the best; chance needs about a third of the table."""
        bounds = Bounds(min_psnr_hole_db=40.0)
        table = {one: outcome_of(one, bounds) for one in combinations(SPACE)}
        enough = by_speed_of(table)[0] * 1.05
        own = [trials_until(tuned(SPACE, table, seed), enough) for seed in range(10)]
        chance = [trials_until(by_chance(SPACE, table, seed), enough) for seed in range(200)]
        assert sum(own) / len(own) < 0.8 * sum(chance) / len(chance)


def by_speed_of(table):
    return sorted(outcome.latency_s for outcome in table.values() if outcome.fits)
