"""The findings of a report in words: what is fastest, what is smallest, what is best within bounds, at what cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.results.format import memory, seconds, times, truth_psnr
from analysis.results.rows import Row, fastest, within_bounds

LEAST_PSNR_HOLE_DB = 40.0
"""The bound on quality: at least this PSNR in the hole against the fp32 reference, or identical."""

SEEDED = (
    "These runs used weights that were made up, not learned: they do the same work in the same time, but what they "
    "paint in the hole means nothing. Every figure of quality on this page is numerical agreement with the fp32 "
    "reference, not visual quality; to the truth it says nothing."
)


SMALL = (
    "These runs used narrower networks than the published ones, without RAFT. Latency and memory on this page are "
    "theirs, not those of ProPainter's published widths, and no claim of speed or memory is judged by them."
)

TRAINED_SMALL = " Their weights are this project's own (weights=small) and were trained: what they paint has a meaning."


@dataclass(frozen=True)
class Finding:
    """Hold one card at the head of the report."""

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
    """Return what distance to the reference says: "quality", or with seeded weights "agreement"."""
    return "agreement" if any(row.weights_source == "seeded" for row in rows) else "quality"


def quality_text(row: Row) -> str:
    """Return the row's distance to the reference in a few words."""
    kind = " (numerical agreement)" if row.weights_source == "seeded" else ""
    if row.identical:
        return f"identical to the reference{kind}"
    if row.psnr_hole_db is None:
        return "not known" + (f": {row.quality_reason}" if row.quality_reason else "")
    return f"{row.psnr_hole_db:.1f} dB in the hole{kind}"


def truth_text(row: Row) -> str:
    """Return the hole's PSNR to the truth in a few words, beside the reference's; empty where it is unknown."""
    own, reference = truth_psnr(row.flat), truth_psnr(row.flat, "reference_")
    if not own:
        return ""
    return own + (f" (reference {reference})" if reference else "")


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Return the cards on the fastest, the smallest and the best within bounds of one setting; empty where none ran."""
    timed = [row for row in rows if row.ok]
    if not timed:
        return []
    published = next((row for row in timed if row.published), None)
    cards = [_fastest(timed, published)]
    if any(row.peak_bytes is not None for row in timed):
        cards.append(_smallest(timed, published))
    return [*cards, _best(timed, published)]


def smallest(rows: Sequence[Row]) -> Row | None:
    """Return the row of least sound peak memory, the faster of equals; None where there is none."""
    sized = [row for row in rows if row.peak_bytes is not None and row.memory_doubt is None]
    return min(sized, key=lambda row: (row.peak_bytes, row.latency_s), default=None)


def within_bound(rows: Sequence[Row]) -> list[Row]:
    """Return the rows within the bound on quality."""
    return [row for row in rows if within_bounds(row, LEAST_PSNR_HOLE_DB)]


def nothing_sound(rows: Sequence[Row], doubt: Callable[[Row], str | None] = lambda row: row.own_doubt) -> str:
    """Return which rows keep a figure from being stated, published first, in a clause."""
    doubts = [doubt(row) for row in sorted(rows, key=lambda row: not row.published) if doubt(row)]
    if not doubts:
        return "none was timed"
    return f"{doubts[0]}" + (f", and {len(doubts) - 1} more" if len(doubts) > 1 else "")


def _fastest(rows: Sequence[Row], published: Row | None) -> Finding:
    row = fastest(rows)
    if row is None:
        return _nothing("fastest", "Fastest", rows)
    if row.published:
        measured = "with a sound time" if _doubtful(rows) else "that was measured"
        sentence = f"No variant {measured} is faster than the published one."
    elif row.sound_speedup and not row.speedup_sure:
        sentence = _may_be_no_faster()
    elif row.sound_speedup is None and row.speedup_doubt:
        sentence = f"No speedup over published is stated: {row.speedup_doubt}."
    else:
        sentence = _speed_sentence(row, rows)
    return _card("fastest", "Fastest", row, published, sentence + _lower_in_doubt(row, rows))


def _doubtful(rows: Sequence[Row]) -> list[Row]:
    """Return the variants of which neither time nor speedup is sound."""
    return [row for row in rows if not (row.published or row.sound_speedup or row.sound_latency_s)]


def _lower_in_doubt(row: Row, rows: Sequence[Row]) -> str:
    """Return a sentence on doubtful times under the row's; empty where there are none."""
    lower = [other for other in _doubtful(rows) if row.sound_latency_s and other.latency_s < row.sound_latency_s]
    return f" Lower, but doubtful, is the time of {_names(lower)}." if lower else ""


def _names(rows: Sequence[Row]) -> str:
    return rows[0].name if len(rows) == 1 else f"{len(rows)} others"


def _nothing(kind: str, title: str, rows: Sequence[Row]) -> Finding:
    """Return the card where no figure is sound: which row is doubtful, and the command that measures it again."""
    first = next((row for row in sorted(rows, key=lambda row: not row.published) if row.again), None)
    sentence = f"Nothing can be stated: {nothing_sound(rows)}. Measure again on a quiet machine:"
    return Finding(kind, title, None, "none", "", "", sentence, [], first.again if first else None)


def _may_be_no_faster() -> str:
    return "The interval does not leave out 1: on this measurement it may be no faster than published."


def _speed_sentence(row: Row, rows: Sequence[Row]) -> str:
    close = [
        other
        for other in rows
        if other is not row
        and not other.published
        and row.sound_speedup
        and other.sound_speedup
        and row.speedup_ci
        and other.speedup_ci
        and other.speedup_ci[1] >= row.speedup_ci[0]
    ]
    text = f"{seconds(row.latency_s)} a run."
    if not close:
        return text
    return f"{text} Not distinguished from it by their intervals: {_names(close)}."


def _smallest(rows: Sequence[Row], published: Row | None) -> Finding:
    row = smallest(rows)
    if row is None or row.peak_bytes is None:
        why = nothing_sound(rows, lambda row: row.memory_doubt)
        first = next((row for row in rows if row.memory_doubt), None)
        sentence = f"Nothing can be stated: {why}. Measure again on a quiet machine:"
        return Finding("smallest", "Smallest", None, "none", "", "", sentence, [], first.again if first else None)
    if row.published:
        sentence = "No variant that was measured needs less memory than the published one."
    elif published is not None and published.memory_doubt:
        sentence = f"It is not compared with published: {published.memory_doubt}."
    elif published is not None and published.peak_bytes:
        change = _percent(row.peak_bytes, published.peak_bytes)
        text = f"{change} memory than" if change != "as much" else "As much memory as"
        sentence = f"{text} published ({memory(published.peak_bytes)})."
    else:
        sentence = "The published variant was not measured beside it."
    number, unit = memory(row.peak_bytes).split(" ")
    interval = {"vram": "peak GPU memory (vram)", "rss": "peak resident memory above the level before the run (rss)"}
    text = interval.get(row.memory_kind or "", "peak memory")
    if row.peak_range and row.runs > 1:
        text += f", {memory(row.peak_range[0])} to {memory(row.peak_range[1])} over {row.runs} runs"
    return Finding(
        "smallest", "Smallest", row, number, unit, text, sentence, _costs(row, published, "memory"), row.command
    )


def _best(rows: Sequence[Row], published: Row | None) -> Finding:
    seeded = rows[0].weights_source == "seeded"
    title = f"Best within {'bounds of agreement' if seeded else 'quality bounds'}"
    bound = f"at least {LEAST_PSNR_HOLE_DB:.0f} dB in the hole against the fp32 reference, or identical to it"
    if seeded:
        bound += " (numerical agreement, not visual quality)"
    near = within_bound(rows)
    if not near:
        return Finding("best", title, None, "none", "", "", f"No variant is within the bound: {bound}.", [], None)
    row = fastest(near)
    if row is None:
        return _nothing("best", title, near)
    measured = " with a sound time" if _doubtful(near) else ""
    sentence = f"The fastest with {bound}."
    if row.published:
        sentence = f"Nothing faster{measured} stays within the bound: {bound}."
    if row.sound_speedup and not row.published and not row.speedup_sure:
        sentence += f" {_may_be_no_faster()}"
    return _card("best", title, row, published, sentence + _lower_in_doubt(row, near))


def _card(kind: str, title: str, row: Row, published: Row | None, sentence: str) -> Finding:
    """Return the card of a row that has a sound speedup or latency, or is the published one that no other beats."""
    interval = ""
    if row.sound_speedup and row.speedup_ci:
        figure, unit = times(row.sound_speedup), "the speed of published" if row.sound_speedup >= 1 else _SLOWER
        how = "measured in pairs" if row.speedup_kind == "paired" else "not measured in pairs"
        interval = f"95% interval {times(row.speedup_ci[0])} to {times(row.speedup_ci[1])}, {how}"
    elif row.sound_latency_s is not None and row.latency_ci_s:
        figure, unit = seconds(row.sound_latency_s).split(" ")
        interval = f"95% interval {row.latency_ci_s[0]:.3g} to {row.latency_ci_s[1]:.3g} s"
    else:
        figure, unit = "1x", "the speed of published, by definition"
    return Finding(kind, title, row, figure, unit, interval, sentence, _costs(row, published, "latency"), row.command)


_SLOWER = "as fast as published"


def _costs(row: Row, published: Row | None, gained: str) -> list[tuple[str, str]]:
    """Return what the variant costs, less the figure that it was chosen for, as label and value."""
    costs = []
    against = published if published is not None and not row.published else None
    if gained != "latency":
        text = seconds(row.latency_s)
        if row.latency_doubt:
            text += " (disturbed)" if row.disturbed else " (no interval)"
        elif row.sound_speedup and against:
            text += f", {times(row.sound_speedup)} the speed"
        costs.append(("Latency", text))
    if gained != "memory" and row.peak_bytes is not None:
        text = memory(row.peak_bytes)
        if row.memory_doubt:
            text += " (disturbed)"
        elif against is not None and against.peak_bytes and not against.memory_doubt:
            text += f", {_percent(row.peak_bytes, against.peak_bytes)}"
        costs.append(("Memory", text))
    costs.append(("Agreement" if row.weights_source == "seeded" else "Quality", quality_text(row)))
    if truth_text(row):
        costs.append(("To the truth", truth_text(row)))
    if row.compile_s:
        costs.append(("Compiling", f"{seconds(row.compile_s)} once"))
    if row.export_s or row.build_s:
        costs.append(
            ("Exporting", f"{seconds(row.export_s or 0)} once, and {seconds(row.build_s or 0)} to load and build")
        )
    if row.disturbed:
        costs.append(("Disturbed", f"{len(row.disturbed)} sign{'s' if len(row.disturbed) > 1 else ''}, see the table"))
    return costs


def _percent(value: float, base: float) -> str:
    change = 100 * (value / base - 1)
    if abs(change) < 0.5:
        return "as much"
    return f"{abs(change):.0f}% {'less' if change < 0 else 'more'}"
