"""How often the stated intervals hold the true value, simulated on a clock without real time.

    python -m experiments.measure.ci_coverage

prints the tables of docs/statistics.md.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.measure.confidence import Sampling
from experiments.paths import CONF

PRESETS = ("quick", "standard", "rigorous")

OUTLIER_SHARE, OUTLIER_RANGE = 0.05, (1.3, 2.0)
"""Share of runs that something else holds up, and how much longer they take."""


@dataclass(frozen=True)
class Noise:
    """How run times scatter around the typical run, which takes one second.

    Attributes:
        sd: standard deviation of the logarithm.
        drift: by how much, in logarithm, the machine gets slower over a measurement of usual length, to stay so then.
        correlation: of each run's deviation with that of the run before.
        outliers: whether `OUTLIER_SHARE` of the runs take longer by `OUTLIER_RANGE`.
    """

    sd: float
    drift: float = 0.0
    correlation: float = 0.0
    outliers: bool = False

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw logarithms of run times without the drift, in order along the last axis."""
        logs = self.sd * random.standard_normal(shape)
        if self.correlation:
            for run in range(1, shape[-1]):
                fresh = math.sqrt(1 - self.correlation**2) * logs[..., run]
                logs[..., run] = self.correlation * logs[..., run - 1] + fresh
        if self.outliers:
            held_up = random.random(shape) < OUTLIER_SHARE
            logs += held_up * np.log(random.uniform(*OUTLIER_RANGE, shape))
        return logs

    def median(self) -> float:
        """Return the logarithm of the typical run's time: the true value without the drift."""
        if not self.outliers:
            return 0.0
        return float(np.median(self.draw(np.random.default_rng(0), (1_000_000,))))


@dataclass(frozen=True)
class Outcome:
    """Shares are of the simulated measurements.

    Attributes:
        covered: whose interval holds the true value.
        samples: their mean number.
        narrow: that ended with an interval as narrow as asked for.
        holds_one: whose interval holds 1.0.
        above_one: whose interval lies above 1.0.
    """

    covered: float
    samples: float
    narrow: float
    holds_one: float
    above_one: float


class Clock:
    """Seconds that pass by addition to `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limits(preset: str) -> dict[str, Any]:
    """Return the settings of a preset that `Sampling` takes."""
    settings: Any = OmegaConf.load(CONF / "measure" / f"{preset}.yaml")
    return {key: settings[key] for key in ("target_relative_ci", "min_samples", "max_samples", "max_seconds")}


def single(preset: str, noise: Noise, replications: int, seed: int = 0, **changed: float) -> Outcome:
    """Simulate many measurements of one variant's latency.

    Args:
        changed: limits other than the preset's.
    """
    return _simulated(limits(preset) | changed, noise, None, replications, seed)


def paired(preset: str, noise: Noise, delay: float, replications: int, seed: int = 0) -> Outcome:
    """Simulate paired measurements, A B B A ..., of a variant that takes the share `delay` longer than its baseline."""
    pairs = OmegaConf.load(CONF / "measure" / f"{preset}.yaml").min_pairs
    return _simulated(limits(preset) | {"min_samples": pairs}, noise, delay, replications, seed)


def _simulated(settings: dict[str, Any], noise: Noise, delay: float | None, replications: int, seed: int) -> Outcome:
    """Simulate measurements in pairs with that delay, or of single runs where it is None."""
    random, slope, most = np.random.default_rng(seed), 0.0, settings["max_samples"]
    runs_per_sample = 1 if delay is None else 2
    if noise.drift:
        steady = _simulated(settings, replace(noise, drift=0.0), delay, 300, seed)
        slope = noise.drift / (runs_per_sample * steady.samples)
    drifts = np.minimum(slope * np.arange(runs_per_sample * most), noise.drift)
    typical = math.exp(noise.median()) if delay is None else 1 + delay
    ended = []
    for _ in range(replications):
        clock = Clock()
        sampling = Sampling(**settings, clock=clock)
        runs = np.exp(noise.draw(random, drifts.shape) + drifts).reshape(most, runs_per_sample)
        passed = values = runs[:, 0]
        if delay is not None:
            runs[1::2] = runs[1::2, ::-1]  # the baseline comes first in every other pair
            baseline, variant = runs[:, 0], (1 + delay) * runs[:, 1]
            passed, values = baseline + variant, variant / baseline
        for seconds, value in zip(passed.tolist(), values.tolist(), strict=True):
            clock.now += seconds
            sampling.add(value)
            if sampling.finished and (delay is None or len(sampling.samples) >= settings["min_samples"]):
                break
        drifted = np.exp(drifts[: len(sampling.samples)]).mean() if delay is None else 1.0
        ended.append((sampling, typical * drifted))
    return _outcome(ended)


def _outcome(ended: list[tuple[Sampling, float]]) -> Outcome:
    """Summarise measurements, each with its true value."""
    intervals = [(sampling.interval, truth) for sampling, truth in ended if sampling.interval is not None]
    return Outcome(
        covered=float(np.mean([interval.low <= truth <= interval.high for interval, truth in intervals])),
        samples=float(np.mean([len(sampling.samples) for sampling, _ in ended])),
        narrow=float(np.mean([sampling.stopped_by == "target_relative_ci" for sampling, _ in ended])),
        holds_one=float(np.mean([interval.low <= 1 <= interval.high for interval, _ in intervals])),
        above_one=float(np.mean([interval.low > 1 for interval, _ in intervals])),
    )


USUAL = {
    "sd 1%": Noise(0.01),
    "sd 2%": Noise(0.02),
    "sd 5%": Noise(0.05),
    "sd 10%": Noise(0.10),
    "sd 2%, drift 1%": Noise(0.02, drift=0.01),
    "sd 5%, drift 2%": Noise(0.05, drift=0.02),
    "sd 2%, outliers": Noise(0.02, outliers=True),
    "sd 5%, outliers": Noise(0.05, outliers=True),
    "sd 10%, outliers": Noise(0.10, outliers=True),
    "sd 5%, drift 2%, outliers": Noise(0.05, drift=0.02, outliers=True),
}
"""Noise as a machine shows it that does nothing else."""

HARD = {
    "sd 20%": Noise(0.20),
    "sd 1%, drift 2%": Noise(0.01, drift=0.02),
    "sd 2%, drift 10%": Noise(0.02, drift=0.10),
    "sd 5%, correlation 0.3": Noise(0.05, correlation=0.3),
    "sd 5%, correlation 0.6": Noise(0.05, correlation=0.6),
}
"""Noise for which the intervals are not made."""

PAIRED = {
    "sd 2%": Noise(0.02),
    "sd 5%": Noise(0.05),
    "sd 2%, drift 10%": Noise(0.02, drift=0.10),
    "sd 5%, outliers": Noise(0.05, outliers=True),
    "sd 5%, correlation 0.3": Noise(0.05, correlation=0.3),
}


def tables(replications: int, progress: Callable[[str], object] = lambda title: None) -> str:
    """Return coverage for each preset, and for pairs, as Markdown."""
    lines = [f"| noise | {' | '.join(PRESETS)} |", f"| --- |{' --- |' * len(PRESETS)}"]
    for title, noise in (USUAL | HARD).items():
        progress(title)
        cells = [_cell(single(preset, noise, replications)) for preset in PRESETS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    progress("time runs out")
    cells = [_cell(single(preset, Noise(0.2), replications, max_seconds=seconds)) for preset, seconds in SHORT.items()]
    lines += [f"| sd 20%, time runs out | {' | '.join(cells)} |", ""]
    lines += ["| pairs | preset | coverage | A against A holds 1.0 | 5% found | pairs |", "| --- |" + " --- |" * 5]
    for title, noise in PAIRED.items():
        progress(f"pairs, {title}")
        for preset in PRESETS[:2]:
            same, slower = paired(preset, noise, 0.0, replications), paired(preset, noise, 0.05, replications)
            shares = " | ".join(f"{share:.1%}" for share in (slower.covered, same.holds_one, slower.above_one))
            lines.append(f"| {title} | {preset} | {shares} | {slower.samples:.0f} |")
    return "\n".join(lines)


SHORT = {"quick": 4.5, "standard": 9.5, "rigorous": 25.5}
"""Too few seconds for a spread of 20%, where a run takes one."""


def _cell(outcome: Outcome) -> str:
    return f"{outcome.covered:.1%} ({outcome.samples:.0f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.measure.ci_coverage", description=__doc__)
    parser.add_argument("--replications", type=int, default=3000, help="simulated measurements of each kind")
    replications = parser.parse_args().replications
    with tqdm(total=len(USUAL | HARD) + 1 + len(PAIRED), disable=None) as bar:

        def progress(title: str) -> None:
            bar.set_description(title)
            bar.update()

        print(tables(replications, progress))


if __name__ == "__main__":
    main()
