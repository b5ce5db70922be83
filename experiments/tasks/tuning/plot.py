"""What a search measured, as a plot: latency against memory, with the front."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.tasks.tuning.search import GIB, Bounds, Trial, front


def draw(trials: Sequence[Trial], bounds: Bounds, path: Path) -> None:
    """Draw all that ran, as a PNG: those within the bounds filled, and the front of these as a line.

    Raises:
        OSError: the path can't be written to.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ran = [trial for trial in trials if trial.outcome.latency_s is not None]
    for fits, colour, label in ((True, "tab:blue", "within the bounds"), (False, "none", "beyond them")):
        chosen = [trial.outcome for trial in ran if trial.outcome.fits is fits]
        axes.scatter(
            [(outcome.peak_bytes or 0) / GIB for outcome in chosen],
            [outcome.latency_s or 0 for outcome in chosen],
            facecolors=colour,
            edgecolors="tab:blue" if fits else "tab:gray",
            label=f"{label} ({len(chosen)})",
        )
    best = front(trials)
    axes.plot(
        [(trial.outcome.peak_bytes or 0) / GIB for trial in best],
        [trial.outcome.latency_s or 0 for trial in best],
        color="tab:orange",
        drawstyle="steps-post",
        label="front",
    )
    for limit in (bounds.max_vram_gb, bounds.max_memory_gb):
        if limit is not None:
            axes.axvline(limit, color="tab:red", linestyle="--", label=f"{limit:g} GiB allowed")
    axes.set_xlabel("peak memory (GiB), first frames")
    axes.set_ylabel("latency (s), first frames")
    axes.legend()
    figure.savefig(path, format="png", dpi=150)
