"""The drift of a variant as a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMALLEST = 1e-9
"""Relative errors under this are drawn at the axis, as 0."""

_STYLES = {"own": ("o", "tab:blue"), "accumulated": ("s", "tab:orange")}


def draw(drift: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw own and accumulated error of each unit on a logarithmic axis, with the bound, as a PNG.

    Args:
        drift: as `drift.json` has it.
        title: above the axes.
        path: where to write.

    Raises:
        OSError: the path can't be written to.
    """
    units = drift["units"]
    figure = Figure(figsize=(max(6, 0.55 * len(units)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_yscale("symlog", linthresh=SMALLEST)
    for which, (marker, colour) in _STYLES.items():
        seen = [(place, unit[which]) for place, unit in enumerate(units) if unit[which] is not None]
        broken = [place for place, unit in enumerate(units) if which in unit["non_finite"]]
        axes.plot(*zip(*seen, strict=True), marker=marker, color=colour, label=which) if seen else None
        # At the upper edge, whatever the scale.
        axes.plot(
            broken,
            [1.0] * len(broken),
            "x",
            color=colour,
            markersize=10,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            label=f"{which}: not finite" if broken else None,
        )
    axes.axhline(drift["bound"], color="grey", linestyle="--", label=f"bound {drift['bound']:g}")
    axes.set_xticks(range(len(units)), [unit["unit"] for unit in units], rotation=45, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("relative error to the fp32 reference")
    axes.set_title(title, fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
