"""`python -m analysis check`: has the output or the speed shifted since a baseline was blessed?"""

import argparse
import base64
import math
from pathlib import Path
from typing import Any

from analysis.commands.bless import Baseline, build, pixels, read_baseline
from analysis.commands.check_result import Bounds, Finding, Outcome
from analysis.commands.check_truth import check_truth
from analysis.errors import InputError
from analysis.records.atomic import print_or_write
from analysis.records.load import load_some
from analysis.results import format as figures
from analysis.results import intervals
from analysis.results.pairing import differences, match, same_variant
from analysis.results.pooling import STATUSES, Row, decibel, name

RSS_NOISE_BYTES = 64 * 2**20
"""A resident set must have grown by more than this as well, to count as bigger."""


def check(
    new: Baseline,
    old: Baseline,
    bounds: Bounds,
    *,
    subset: bool = False,
    tolerant: bool = False,
    accuracy_only: bool = False,
    truth_only: bool = False,
) -> Outcome:
    """Compare a sweep with a baseline: first the reference's frames, then each variant.

    Args:
        new, old: of `analysis.commands.bless.build` or `read_baseline`.
        subset: variants of the baseline that the sweep does not have are no regression.
        tolerant: references need not be bit-equal on the same torch and processor either.
        accuracy_only: times and memory are not compared.
        truth_only: statuses and PSNR against the truth alone are compared. Rounding moves these by far less than the
            bound, so that one baseline serves all processors and versions of torch.
    """
    outcome = Outcome()
    pairs = []
    for row in old["variants"]:
        found = match(row, new["variants"])
        if found is not None:
            pairs.append((row, found))
        elif not subset:
            namesakes = [other for other in new["variants"] if same_variant(row, other)]
            why = "it is in the baseline and not in this sweep (--subset allows that)"
            if namesakes:
                why = f"this sweep's can't be compared with it: {'; '.join(differences([row], namesakes))}"
            outcome.regressions.append(Finding(_label(row), "status", row["status"], "absent", why))
    if not pairs:
        return Outcome(not_comparable=differences(old["variants"], new["variants"]))
    if not truth_only:
        _check_references(outcome, new, old, pairs, bounds, tolerant)
    for before, after in pairs:
        outcome.compared.setdefault(_label(after), []).append("truth" if truth_only else "accuracy")
        _check_status(outcome, before, after)
        if not truth_only:
            _check_accuracy(outcome, before, after, bounds, tolerant)
        check_truth(outcome, before, after, bounds, truth_only=truth_only)
        if not (accuracy_only or truth_only):
            _check_performance(outcome, before, after, bounds)
    matched = [id(after) for _, after in pairs]
    fresh = [_label(row) for row in new["variants"] if id(row) not in matched]
    if fresh:
        outcome.notes.append(f"not in the baseline: {', '.join(fresh)}")
    return outcome


def same_arithmetic(one: Row, other: Row) -> bool:
    """Return whether equal work must give equal bits: the same environment, and the same processor."""
    return one["place"] == other["place"] and one.get("environment.cpu") == other.get("environment.cpu")


def _check_references(
    outcome: Outcome, new: Baseline, old: Baseline, pairs: list[tuple[Row, Row]], bounds: Bounds, tolerant: bool
) -> None:
    seen = set()
    for before, after in pairs:
        exact = same_arithmetic(before, after) and not tolerant
        keys = (before["reference"], after["reference"], exact)
        if keys in seen or before["reference"] is None or decibel(after) is None:
            continue
        seen.add(keys)
        if after["reference"] is None:
            outcome.not_comparable.append(
                f"{_label(after)} has no preview/NNNNN_reference.png beside its record: the reference can't be compared"
            )
            continue
        old_frames, new_frames = old["references"][before["reference"]], new["references"][after["reference"]]
        common = sorted(old_frames.keys() & new_frames.keys())
        if not common:
            outcome.not_comparable.append(f"{_label(after)} shows no frame of the reference that the baseline holds")
            continue
        distances = {number: _psnr_db(old_frames[number], new_frames[number]) for number in common}
        number, least = min(distances.items(), key=lambda item: item[1])
        outcome.compared.setdefault("reference", []).append(f"{len(common)} frames")
        needed = math.inf if exact else bounds.reference_psnr_db
        if least < needed:
            expected = "bit-equal" if exact else f"at least {needed:g} dB"
            same = "the same" if exact else "another" if not same_arithmetic(before, after) else "any"
            why = (
                f"the fp32 reference itself has changed (worst in frame {int(number)}), so the network or torch has; "
                f"on {same} torch and processor {expected} is expected"
            )
            outcome.regressions.append(
                Finding(
                    "reference", "frames", expected, f"{least:.1f} dB from the baseline's, {figures.size(after)}", why
                )
            )


def _psnr_db(one: str, other: str) -> float:
    import numpy as np

    a, b = (pixels(base64.b64decode(png)).astype(np.float64) for png in (one, other))
    if a.shape != b.shape:
        return -math.inf
    mean_square = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


def _check_status(outcome: Outcome, before: Row, after: Row) -> None:
    if STATUSES.index(after["status"]) > STATUSES.index(before["status"]):
        now = f"{after['status']}: {after.get('reason')}"
        outcome.regressions.append(Finding(_label(after), "status", before["status"], now, "the status is worse"))


def _check_accuracy(outcome: Outcome, before: Row, after: Row, bounds: Bounds, tolerant: bool) -> None:
    label, exact = _label(after), same_arithmetic(before, after) and not tolerant

    def regression(figure: str, was: str, now: str, why: str) -> None:
        outcome.regressions.append(Finding(label, figure, was, now, why))

    if after["status"] != "ok":
        return
    now, was = decibel(after), decibel(before)
    if now is None:
        if was is not None:
            why = after.get("quality_reason") or "the run was not compared with the reference"
            regression("quality.psnr_hole_db", figures.psnr(before), "unknown", why)
        return
    if bounds.psnr_floor_db is not None and now < bounds.psnr_floor_db:
        why = f"it is under the floor of {bounds.psnr_floor_db:g} dB"
        regression("quality.psnr_hole_db", figures.psnr(before), figures.psnr(after), why)
    if was is None:
        return
    enough = math.inf if exact else bounds.reference_psnr_db
    if exact and before["quality.identical"] and not after["quality.identical"]:
        why = "the output was bit-equal to the reference before, on the same torch and processor"
        regression("quality.identical", "identical", figures.psnr(after), why)
    elif min(now, enough) < min(was, enough) - bounds.psnr_drop_db:
        why = f"it has fallen by more than {bounds.psnr_drop_db:g} dB"
        regression("quality.psnr_hole_db", figures.psnr(before), figures.psnr(after), why)
    elif exact and before["results"] != after["results"]:
        outcome.notes.append(f"{label}: the output has changed, within the bounds ({figures.psnr(after)})")
    for key, sign, bound in (("ssim", -1, bounds.ssim_drop), ("lpips", 1, bounds.lpips_rise)):
        key = f"quality.{key}"
        comparable = key != "quality.lpips" or before.get("quality.lpips_net") == after.get("quality.lpips_net")
        if comparable and key in before and key in after and sign * (after[key] - before[key]) > bound:
            regression(key, f"{before[key]:.5f}", f"{after[key]:.5f}", f"it is worse by more than {bound:g}")


def _check_performance(outcome: Outcome, before: Row, after: Row, bounds: Bounds) -> None:
    label = _label(after)
    if after["status"] != "ok" or before["status"] != "ok":
        return
    if before["place"] != after["place"]:
        reason = (
            f"measured on {figures.where(before)} and {figures.where(after)}, other threads or another driver count too"
        )
    elif not before["performance"]:
        reason = "the baseline's run was disturbed"
    elif not after["performance"]:
        reason = f"this run was disturbed ({after['disturbed'][0]})"
    else:
        reason = None
    if reason:
        outcome.notes.append(f"{label}: performance is not compared: {reason}")
        return
    _check_times(outcome, before, after, bounds)
    was, now = (row.get("memory.peak_range_bytes") for row in (before, after))
    if was and now and before.get("memory.kind") == after.get("memory.kind"):
        slack = RSS_NOISE_BYTES if before["memory.kind"] == "rss" else 0
        if now[0] > was[1] * (1 + bounds.slower) and now[0] > was[1] + slack:
            why = f"it is bigger by more than {bounds.slower:.0%}"
            finding = Finding(label, "memory.peak_bytes", figures.memory(was[1]), figures.memory(now[0]), why)
            outcome.regressions.append(finding)
        outcome.compared[label].append("memory")


def _check_times(outcome: Outcome, before: Row, after: Row, bounds: Bounds) -> None:
    """Check the latency, and a paired speedup where both have one over the same baseline."""
    label = _label(after)
    checks: list[tuple[str, str, float, Any]] = [("latency.median_s", "latency.ci95_s", 1, figures.seconds)]
    paired = all(row.get("speedup.kind") == "paired" for row in (before, after))
    if paired and name(before.get("speedup.baseline")) == name(after.get("speedup.baseline")):
        checks.append(("speedup.median", "speedup.ci95", -1, figures.times))
    for key, interval, sign, text in checks:
        was, now = before.get(key), after.get(key)
        if not was or not now:
            continue
        if before.get(interval) is None or after.get(interval) is None:
            outcome.notes.append(f"{label}: {key} is not compared: one of the two has no interval")
            continue
        outcome.compared[label].append(key.split(".")[0])
        if (now / was) ** sign > 1 + bounds.slower and intervals.disjoint(before[interval], after[interval]):
            why = f"it is slower by more than {bounds.slower:.0%}, and the intervals do not overlap"
            finding = Finding(label, key, text(was, before[interval]), text(now, after[interval]), why)
            outcome.regressions.append(finding)


def _label(row: Row) -> str:
    return row.get("variant.label", "unknown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    usual = Bounds()
    parser.add_argument("path", type=Path, metavar="DIR", help="the sweep folder to check")
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE|DIR", help="of bless, or a sweep folder")
    parser.add_argument("--psnr-drop", type=float, default=usual.psnr_drop_db, metavar="DB", help="%(default)s dB")
    parser.add_argument("--psnr-floor", type=float, metavar="DB", help="least PSNR in the hole; none by default")
    parser.add_argument(
        "--truth-psnr-drop",
        type=float,
        default=usual.truth_psnr_drop_db,
        metavar="DB",
        help="of the PSNR in the hole against the truth: %(default)s dB",
    )
    parser.add_argument("--ssim-drop", type=float, default=usual.ssim_drop, metavar="X", help="%(default)s")
    parser.add_argument("--lpips-rise", type=float, default=usual.lpips_rise, metavar="X", help="%(default)s")
    parser.add_argument(
        "--slower", type=float, default=usual.slower, metavar="SHARE", help="of time and memory: %(default)s"
    )
    parser.add_argument(
        "--reference-psnr",
        type=float,
        default=usual.reference_psnr_db,
        metavar="DB",
        help="tolerance on another torch or processor: %(default)s dB",
    )
    parser.add_argument("--tolerant", action="store_true", help="use that tolerance on the same ones too")
    parser.add_argument("--subset", action="store_true", help="the sweep need not have all variants of the baseline")
    parser.add_argument("--accuracy-only", action="store_true", help="do not compare times and memory")
    parser.add_argument(
        "--truth-only", action="store_true", help="compare statuses and PSNR against the truth, and nothing else"
    )
    parser.add_argument("--allow-disturbed", action="store_true", help="compare times and memory of disturbed runs too")
    parser.add_argument("--format", choices=("text", "markdown", "json", "junit"), default="text")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")


def main(arguments: argparse.Namespace) -> int:
    """Print or write what was found; 0 fine, 1 regression, 2 not comparable."""
    from analysis.commands.check_format import FORMATS

    bounds = Bounds(
        arguments.psnr_drop,
        arguments.psnr_floor,
        arguments.ssim_drop,
        arguments.lpips_rise,
        arguments.slower,
        arguments.reference_psnr,
        arguments.truth_psnr_drop,
    )
    frame = load_some(arguments.path)
    new = build(frame, allow_disturbed=arguments.allow_disturbed)
    old = read_baseline(arguments.baseline, allow_disturbed=arguments.allow_disturbed)
    try:
        outcome = check(
            new,
            old,
            bounds,
            subset=arguments.subset,
            tolerant=arguments.tolerant,
            accuracy_only=arguments.accuracy_only,
            truth_only=arguments.truth_only,
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{arguments.baseline} is a damaged baseline ({type(error).__name__}: {error}).") from error
    outcome.notes += frame.attrs["left_out"]
    text = FORMATS[arguments.format](outcome)
    print_or_write(text, arguments.output)
    return outcome.code
