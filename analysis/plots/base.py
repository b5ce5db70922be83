"""Draw a report's plots by matplotlib, in colours that colour-blind readers can distinguish, on light and on dark.

The drawing functions are in `analysis.plots.cost`, `analysis.plots.quality` and `analysis.plots.scaling`; each gives a
`Drawing`, or None where the records don't have what it shows.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.atomic import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
"""Okabe and Ito's colours, less yellow and black, which vanish on white and on dark."""

SERIES = (
    (BLUE, "o", "-"),
    (RED, "s", "--"),
    (GREEN, "^", "-."),
    (PINK, "D", ":"),
    (SKY, "v", "-"),
    (ORANGE, "P", "--"),
)
"""Colour, marker and line of the first, second, ... series."""

INK, GRID, GROUND = "#1b2127", "#d9dde1", "#fefdfc"
"""Text, grid and ground; in the page's own SVG these become the page's colours, light or dark."""

_IN_PAGE = {INK: "currentColor", GRID: "var(--rule)", GROUND: "var(--panel)"}

WIDTH_INCHES = 5.2

STYLE = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "propainter-bench",
}


@dataclass(frozen=True)
class Drawing:
    """Hold a figure and the text around it.

    Attributes:
        name: of its files, without ending.
        caption: how to read it; under the plot.
        alt: what it shows, in words, for those who can't see it.
        header, lines: the drawn figures as a table.
    """

    name: str
    title: str
    figure: "Figure"
    caption: str
    alt: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot(Drawing):
    """Hold a drawing of the page; `inline` is an SVG element of that height, at the width of all."""

    inline: str
    height_inches: float


def new_figure(height_inches: float, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """Return a figure of the report's width and its axes, one or an array of `columns`. Call it within `styled`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    return figure, figure.subplots(1, columns, **options)


def styled() -> Any:
    """Return a context in which figures are drawn and saved in the report's style."""
    import matplotlib

    return matplotlib.rc_context(dict[Any, Any](STYLE))


BAR: dict[str, Any] = {"height": 0.42, "edgecolor": INK, "linewidth": 0.6}
DOT: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.6, "zorder": 2}


def named_bars(axes: "Axes", names: Sequence[str]) -> list[float]:
    """Prepare axes for horizontal bars, one under the other, each with its name above it; the bars' heights on y."""
    for position, name in enumerate(names):
        where = axes.get_yaxis_transform()
        box = dict(facecolor=GROUND, edgecolor="none", pad=0.8)
        axes.text(0, position - 0.27, shortened(name), transform=where, va="bottom", in_layout=False, bbox=box)
    axes.set_ylim(len(names) - 0.5, -0.9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return [float(position) for position in range(len(names))]


def bar_figure(names: Sequence[str], more_inches: float = 0.0) -> tuple["Figure", "Axes", list[float]]:
    """Return a figure for `named_bars` of these names, its axes, and the bars' heights on y."""
    figure, axes = new_figure(0.75 + 0.42 * len(names) + more_inches)
    return figure, axes, named_bars(axes, names)


def value_label(axes: "Axes", x: float, y: float, text: str) -> None:
    """Write a figure to the right of a bar's end."""
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", annotation_clip=False)


def shortened(name: str, limit: int = 60) -> str:
    """Return the name with its end left out where it is longer than `limit` characters."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def render(drawing: Drawing, folder: Path) -> Plot:
    """Write the drawing as `folder/NAME.png` and `.svg`, and give it for the page.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    picture, vector = io.BytesIO(), io.StringIO()
    drawing.figure.savefig(picture, format="png", dpi=160)
    drawing.figure.set_layout_engine("none")  # the PNG's layout is the SVG's too
    drawing.figure.savefig(vector, format="svg", metadata={"Date": None, "Title": drawing.title})
    with atomic_write(folder / f"{drawing.name}.png") as partial:
        partial.write_bytes(picture.getvalue())
    write_text(folder / f"{drawing.name}.svg", vector.getvalue())
    element = inline(vector.getvalue(), drawing.name, drawing.alt)
    return Plot(**vars(drawing), inline=element, height_inches=drawing.figure.get_figheight())


def inline(svg: str, name: str, alt: str) -> str:
    """Return an SVG file as an element of the page, with its text alternative, unique ids and the page's colours."""
    from html import escape

    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<title>.*?</title>", "", element, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', element))
    element = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", element)
    element = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", element)
    for colour, replacement in _IN_PAGE.items():
        element = element.replace(colour, replacement)
    (box,) = re.findall(r'viewBox="[^"]*"', element)[:1]
    body = element[element.index(">") + 1 :]
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} {box} role="img" aria-label="{escape(alt)}">{body}'
