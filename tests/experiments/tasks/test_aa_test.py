"""The instrument's own test: its table."""

from experiments.tasks.aa_test import table


def comparison(ci95: list[float] | None) -> dict:
    figures = {"pairs": 6, "ratio": 1.05, "stopped_by": "max_samples", "harness_share": 1e-4}
    return {**figures, "ci95": ci95, "slower_stage": "flow"}


def test_a_comparison_of_one_pair_has_no_interval_and_counts_as_missed():
    document = {"run_s": 2.0, "delay": 0.05, "stage": "flow", "environment": {"device": "CPU"}}
    equal, delayed = [comparison([0.9, 1.1]), comparison(None)], [comparison([1.01, 1.1]), comparison(None)]
    text = table(document | {"equal": equal, "delayed": delayed})
    assert "holds 1.0 in 1 of 2" in text
    assert "is named, in 1 of 2" in text
    assert text.count("| 0.900 to 1.100 |") == 1
    assert text.count("none (too few pairs)") == 2
