"""Series over versions: what is one series, one point and one version, and which steps are told."""

import numpy as np
import pytest
from support.records_fixture import make_record, write_sweep

from analysis import load
from analysis.results.history import FIGURES, find_steps, machine, series_of

LATENCY = FIGURES[0]


def nightly(folder, seconds, variants=({}, {"attention": "sdpa"}), **changes):
    """Write a sweep a night; `seconds` has published's latency of each, and gives its speed to all."""
    for night, of_published in enumerate(seconds):
        records = [
            make_record(
                seconds=of_published * (0.7 if variant else 1),
                environment__commit=f"{night:08x}" + 32 * "0",
                run__started=f"2026-11-{night + 1:02d}T03:00:00+00:00",
                **{"paired": 1 / 0.7 if variant else None},
                **{key: value(night) if callable(value) else value for key, value in changes.items()},
                **variant,
            )
            for variant in variants
        ]
        write_sweep(folder / f"night-{night}", records, parquet=False)
    return folder


def noisy(seed, count=10, step_at=None, size=1.15, noise=0.01):
    values = 8 * np.exp(np.random.default_rng(seed).normal(0, noise, count))
    if step_at is not None:
        values[step_at:] *= size
    return values.tolist()


def history(folder):
    found = series_of(load(folder))
    return found, find_steps(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_step_is_told_with_its_versions_and_stage(tmp_path, seed):
    found, steps = history(nightly(tmp_path, noisy(seed, step_at=6)))
    assert [(one.name, len(one.points)) for one in found] == [("published", 10), ("attention=sdpa", 10)]
    told = {(step.series.name, step.figure.key, step.position) for step in steps}
    assert told == {("published", "latency_s", 6), ("attention=sdpa", "latency_s", 6)}, "not the speedup: both slowed"
    assert all(step.worse for step in steps)
    sentence = steps[0].sentence
    assert "worse: latency of " in sentence and "rose by 1" in sentence
    assert "between 00000005, torch 2.15.0 and 00000006, torch 2.15.0" in sentence
    assert "generation changed most" in sentence


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_shows_no_step(tmp_path, seed):
    _, steps = history(nightly(tmp_path, noisy(seed, noise=0.03)))
    assert steps == []


def test_a_gain_is_better_and_memory_and_quality_have_steps_too(tmp_path):
    grown = {"peak_bytes": lambda night: (352 if night < 4 else 400) * 2**20}
    worse_picture = {"truth_db": lambda night: 24.0 if night < 5 else 23.0}
    _, steps = history(nightly(tmp_path, noisy(1, step_at=5, size=0.8), ({},), **grown, **worse_picture))
    told = {step.figure.key: (step.position, step.worse, step.change) for step in steps}
    assert told["latency_s"][:2] == (5, False)
    assert told["peak_mib"] == (4, True, "rose by 13.6% (+13.6% to +13.6%)")
    assert told["truth_psnr_hole_db"] == (5, True, "fell by 1.00 dB (-1.00 dB to -1.00 dB)")


def test_other_clips_weights_and_machines_are_other_series(tmp_path):
    for number, changes in enumerate(
        [{}, {"frames": 8}, {"weights": "small"}, {"device": "NVIDIA H100", "device_type": "cuda"}, {"seconds": 7.0}]
    ):
        write_sweep(tmp_path / str(number), [make_record(**changes)], parquet=False)
    found = series_of(load(tmp_path))
    assert sorted(len(one.points) for one in found) == [1, 1, 1, 2]
    assert {machine(one.last) for one in found} == {one.machine for one in found}


def test_a_new_torch_goes_on_with_the_series_as_another_version(tmp_path):
    for number, torch in enumerate(["2.11.0", "2.15.0"]):
        write_sweep(tmp_path / str(number), [make_record(torch=torch)], parquet=False)
    (one,) = series_of(load(tmp_path))
    assert [point.version.split("torch ")[1] for point in one.points] == ["2.11.0", "2.15.0"]


def test_repeats_in_a_sweep_are_one_point(tmp_path):
    write_sweep(tmp_path, [make_record(repeat=number, seconds=8 + number) for number in range(3)], parquet=False)
    (one,) = series_of(load(tmp_path))
    assert [point.row["latency.median_s"] for point in one.points] == [9]


def test_doubtful_points_are_left_out_of_the_search(tmp_path):
    seconds = noisy(2)
    folder = nightly(tmp_path, seconds, ({},))
    found, steps = history(folder)
    write_sweep(
        folder / "night-99",
        [make_record(seconds=80.0, disturbed=["another process took 90% of a core"], run__started="2026-11-30")],
        parquet=False,
    )
    found, steps = history(folder)
    assert len(found[0].points) == 11 and len(found[0].sound(LATENCY)) == 10
    assert not [step for step in steps if step.figure is LATENCY]


def test_points_are_in_the_order_of_their_times(tmp_path):
    for number, day in enumerate(["2026-11-03", "2026-11-01", "2026-11-02"]):
        write_sweep(tmp_path / str(number), [make_record(seconds=float(day[-1]), run__started=day)], parquet=False)
    (one,) = series_of(load(tmp_path))
    assert [point.row["latency.median_s"] for point in one.points] == [1, 2, 3]


def test_runs_that_failed_are_no_points(tmp_path):
    write_sweep(tmp_path, [make_record(status="failed")], parquet=False)
    assert series_of(load(tmp_path)) == []
