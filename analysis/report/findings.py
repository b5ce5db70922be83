"""The findings of a report in words: what is fastest, what is smallest, what is best within bounds, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results.format import memory, seconds, times
from analysis.results.rows import Row, within_bounds

LEAST_PSNR_HOLE_DB = 40.0
"""The bound on quality: at least this PSNR in the hole against the fp32 reference, or identical."""

SEEDED = (
    "These runs used weights that were made up, not learned: they do the same work in the same time, but what they "
    "paint in the hole means nothing. Every figure of quality on this page is numerical agreement with the fp32 "
    "reference, not visual quality."
)


@dataclass(frozen=True)
class Finding:
    """One card at the head of the report."""

    kind: str
    title: str
    row: Row | None
    figure: str
    unit: str
    interval: str
    sentence: str
    costs: Sequence[tuple[str, str]]
    command: str | None


def quality_word(rows: Sequence[Row]) -> str:
    """What distance to the reference says: "quality", or with seeded weights "agreement"."""
    return "agreement" if any(row.weights_source == "seeded" for row in rows) else "quality"


def quality_text(row: Row) -> str:
    """The row's distance to the reference in a few words."""
    kind = " (numerical agreement)" if row.weights_source == "seeded" else ""
    if row.identical:
        return f"identical to the reference{kind}"
    if row.psnr_hole_db is None:
        return "not known" + (f": {row.quality_reason}" if row.quality_reason else "")
    return f"{row.psnr_hole_db:.1f} dB in the hole{kind}"


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Fastest, smallest and best within bounds of the variants of one setting; empty where none ran."""
    timed = [row for row in rows if row.ok]
    if not timed:
        return []
    published = next((row for row in timed if row.published), None)
    cards = [_fastest(timed, published)]
    sized = [row for row in timed if row.peak_bytes is not None]
    if sized:
        cards.append(_smallest(sized, published))
    return [*cards, _best(timed, published)]


def fastest(rows: Sequence[Row]) -> Row:
    """The row of highest speedup over published where all have one, else of least latency."""
    if all(row.speedup or row.published for row in rows) and any(row.published or row.speedup for row in rows):
        return max(rows, key=lambda row: (row.speedup or 1.0, -row.latency_s))
    return min(rows, key=lambda row: row.latency_s)


def smallest(rows: Sequence[Row]) -> Row | None:
    """The row of least peak memory; of equals the faster."""
    sized = [row for row in rows if row.peak_bytes is not None]
    return min(sized, key=lambda row: (row.peak_bytes, row.latency_s), default=None)


def best(rows: Sequence[Row]) -> Row | None:
    """The fastest row within the bound on quality."""
    near = [row for row in rows if within_bounds(row, LEAST_PSNR_HOLE_DB)]
    return fastest(near) if near else None


def _fastest(rows: Sequence[Row], published: Row | None) -> Finding:
    row = fastest(rows)
    if row.published:
        sentence = "No variant that was measured is faster than the published one."
    elif row.speedup and not row.speedup_sure:
        sentence = _doubt(row)
    else:
        sentence = _speed_sentence(row, rows)
    return _card("fastest", "Fastest", row, published, sentence)


def _doubt(row: Row) -> str:
    known = "The interval does not leave out 1" if row.speedup_ci else "There is no interval"
    return f"{known}: on this measurement it may be no faster than published."


def _speed_sentence(row: Row, rows: Sequence[Row]) -> str:
    close = [
        other
        for other in rows
        if other is not row
        and not other.published
        and row.speedup_ci
        and other.speedup_ci
        and other.speedup_ci[1] >= row.speedup_ci[0]
    ]
    told = f"{seconds(row.latency_s)} a run."
    if not close:
        return told
    names = close[0].name if len(close) == 1 else f"{len(close)} others"
    return f"{told} Not told apart from it by their intervals: {names}."


def _smallest(rows: Sequence[Row], published: Row | None) -> Finding:
    row = smallest(rows)
    if row.published:
        sentence = "No variant that was measured needs less memory than the published one."
    elif published is not None and published.peak_bytes:
        change = _percent(row.peak_bytes, published.peak_bytes)
        told = f"{change} memory than" if change != "as much" else "As much memory as"
        sentence = f"{told} published ({memory(published.peak_bytes)})."
    else:
        sentence = "The published variant was not measured beside it."
    number, unit = memory(row.peak_bytes).split(" ")
    interval = {"vram": "peak GPU memory (vram)", "rss": "peak resident memory above the level before the run (rss)"}
    told = interval.get(row.memory_kind or "", "peak memory")
    if row.peak_range and row.runs > 1:
        told += f", {memory(row.peak_range[0])} to {memory(row.peak_range[1])} over {row.runs} runs"
    return Finding(
        "smallest", "Smallest", row, number, unit, told, sentence, _costs(row, published, "memory"), row.command
    )


def _best(rows: Sequence[Row], published: Row | None) -> Finding:
    seeded = rows[0].weights_source == "seeded"
    title = f"Best within {'bounds of agreement' if seeded else 'quality bounds'}"
    bound = f"at least {LEAST_PSNR_HOLE_DB:.0f} dB in the hole against the fp32 reference, or identical to it"
    if seeded:
        bound += " (numerical agreement, not visual quality)"
    row = best(rows)
    if row is None:
        sentence = f"No variant is within the bound: {bound}."
        return Finding("best", title, None, "none", "", "", sentence, [], None)
    sentence = f"Nothing faster stays within the bound: {bound}." if row.published else f"The fastest with {bound}."
    if row.speedup and not row.published and not row.speedup_sure:
        sentence += f" {_doubt(row)}"
    return _card("best", title, row, published, sentence)


def _card(kind: str, title: str, row: Row, published: Row | None, sentence: str) -> Finding:
    if row.speedup and not row.published:
        faster = row.speedup >= 1
        figure, unit = times(row.speedup), "as fast as published" if not faster else "the speed of published"
        if row.speedup_ci:
            how = "measured in pairs" if row.speedup_kind == "paired" else "not measured in pairs"
            interval = f"95% interval {times(row.speedup_ci[0])} to {times(row.speedup_ci[1])}, {how}"
        else:
            interval = "no interval: too few timed runs"
    else:
        figure, unit = seconds(row.latency_s).split(" ")
        low_high = row.latency_ci_s
        interval = (
            f"95% interval {low_high[0]:.3g} to {low_high[1]:.3g} s" if low_high else "no interval: too few timed runs"
        )
    return Finding(kind, title, row, figure, unit, interval, sentence, _costs(row, published, "latency"), row.command)


def _costs(row: Row, published: Row | None, gained: str) -> list[tuple[str, str]]:
    """What the variant costs beside what it was chosen for, as label and value."""
    costs = []
    against = published if published is not None and not row.published else None
    if gained != "latency":
        text = seconds(row.latency_s)
        costs.append(("Latency", f"{text}, {times(row.speedup)} the speed" if row.speedup and against else text))
    if gained != "memory" and row.peak_bytes is not None:
        text = memory(row.peak_bytes)
        if against is not None and against.peak_bytes:
            text += f", {_percent(row.peak_bytes, against.peak_bytes)}"
        costs.append(("Memory", text))
    costs.append(("Agreement" if row.weights_source == "seeded" else "Quality", quality_text(row)))
    if row.compile_s:
        costs.append(("Compiling", f"{seconds(row.compile_s)} once"))
    if row.disturbed:
        costs.append(("Disturbed", f"{len(row.disturbed)} sign{'s' if len(row.disturbed) > 1 else ''}, see the table"))
    return costs


def _percent(value: float, base: float) -> str:
    change = 100 * (value / base - 1)
    if abs(change) < 0.5:
        return "as much"
    return f"{abs(change):.0f}% {'less' if change < 0 else 'more'}"
