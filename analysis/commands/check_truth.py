"""The part of `python -m analysis check` on the truth: what is really behind the hole."""

from analysis.commands.check_result import Bounds, Finding, Outcome
from analysis.results import format as figures
from analysis.results.pooling import Row, decibel, truth_decibel

FIGURE = "quality.truth.psnr_hole_db"


def check_truth(outcome: Outcome, before: Row, after: Row, bounds: Bounds, *, truth_only: bool) -> None:
    """Check the hole's PSNR against the truth where the baseline has it, and add what is found to the outcome.

    Args:
        before, after: a variant's rows, of the baseline and of the sweep.
        truth_only: nothing else of the two is compared, so that a baseline without the figure is not comparable.
    """
    if after["status"] != "ok" or before["status"] != "ok":
        return
    label, was, now = after.get("variant.label", "unknown"), truth_decibel(before), truth_decibel(after)
    if was is None:
        if truth_only:
            outcome.not_comparable.append(f"{label} has no PSNR against the truth in the baseline")
        return
    if now is None:
        if not truth_only and decibel(after) is None:
            return  # it was not compared with anything, as the check of accuracy says
        why = after.get("quality_reason") or "the run was not compared with the truth"
    elif now < was - bounds.truth_psnr_drop_db:
        why = f"it has fallen by more than {bounds.truth_psnr_drop_db:g} dB against the truth"
    else:
        return
    shown = figures.truth_psnr(after) or "unknown"
    outcome.regressions.append(Finding(label, FIGURE, figures.truth_psnr(before), shown, why))
