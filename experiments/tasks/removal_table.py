"""The table of `experiment=removal_quality`: each clip, and means with paired differences."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.measure.confidence import bootstrap_interval
from experiments.tasks.base import markdown_table

METHODS = {
    "ours": "the configured pipeline",
    "seeded": "(a) seeded weights of the published widths, with the flow of ours",
    "propagation": "(b) flow, completion and pixel propagation of ours, the rest of the hole inpainted by OpenCV",
    "frames": "(c) each frame by itself, the hole inpainted by OpenCV",
    "affine": "(d) as (b), with an affine fit to the flow outside the hole in place of the completion network",
}
"""Ways to fill a hole, in the order of the table's columns."""

INPAINTED = ("propagation", "frames", "affine")
"""Methods that end with OpenCV's inpainting: results have both of its algorithms, `propagation_telea` and so on."""

ALL = "all"

Result = Mapping[str, Any]


def decibels(value: float | None) -> str:
    """Return a PSNR as the table has it."""
    return "identical" if value is None else f"{value:.2f} dB"


def chosen_algorithms(results: Sequence[Result]) -> dict[str, str]:
    """Return OpenCV's algorithm by method: the one that is better in the mean over all clips."""

    def mean(key: str) -> float:
        # What is identical to the truth in some clips is the better one.
        return float(np.mean([_psnr(result, key, np.inf) for result in results]))

    names = {
        method: [key for key in results[0]["psnr_hole_db"] if key.startswith(f"{method}_")] for method in INPAINTED
    }
    return {method: max(keys, key=mean).removeprefix(f"{method}_") for method, keys in names.items()}


def _psnr(result: Result, key: str, identical: float) -> float:
    value = result["psnr_hole_db"][key]
    return identical if value is None else value


def columns(results: Sequence[Result]) -> dict[str, str]:
    """Return the key of each method's PSNR in a result, for methods that were run."""
    keys = {name: f"{name}_{algorithm}" for name, algorithm in chosen_algorithms(results).items()}
    present = results[0]["psnr_hole_db"]
    return {name: keys.get(name, name) for name in METHODS if keys.get(name, name) in present}


def means(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the means of each set, and of all clips together where there are several sets.

    Returns:
        Rows with `set`; `clips`, their number; `psnr_hole_db` by method; `ours_minus` by other method: `mean_db` of the
        paired differences, their 95% interval `ci95_db` by bootstrap over clips, null for fewer than five, and
        `clips`; `filled` and `flow_epe_px` by method. Clips that are identical to the truth have no PSNR and count in
        none of the means of it.
    """
    keys = columns(results)
    sets = list(dict.fromkeys(result["set"] for result in results))
    rows = []
    for name in [*sets, ALL] if len(sets) > 1 else sets:
        chosen = [result for result in results if name in (ALL, result["set"])]
        psnr = {method: [result["psnr_hole_db"][key] for result in chosen] for method, key in keys.items()}
        rows.append(
            {
                "set": name,
                "clips": len(chosen),
                "psnr_hole_db": {method: _mean(values) for method, values in psnr.items()},
                "ours_minus": {
                    method: _difference(psnr["ours"], values) for method, values in psnr.items() if method != "ours"
                },
                "filled": _means_by_name(result["filled"] for result in chosen),
                "flow_epe_px": _means_by_name(result["flow_epe_px"] for result in chosen if result["flow_epe_px"]),
            }
        )
    return rows


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _means_by_name(figures: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    figures = list(figures)
    return {name: _mean(given[name] for given in figures) for name in (figures[0] if figures else ())}


def _difference(ours: Sequence[float | None], others: Sequence[float | None]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(ours, others, strict=True) if a is not None and b is not None]
    interval = bootstrap_interval(differences)
    return {
        "mean_db": _mean(differences),
        "ci95_db": None if interval is None else [interval.low, interval.high],
        "clips": len(differences),
    }


def markdown(results: Sequence[Result]) -> str:
    """Return the results as Markdown: what the columns are, each clip, and the means."""
    keys, algorithms = columns(results), chosen_algorithms(results)
    about = [
        f"- {name}: {METHODS[name]}" + (f" ({algorithms[name]}, the better one)" if name in algorithms else "")
        for name in keys
    ]
    return "\n\n".join(
        [
            "PSNR in the hole against the truth; share of the hole that propagation filled (b, d); where exact "
            "flow is known, mean end-point error of completed flow in the hole (b, d) and of estimated flow outside.",
            "\n".join(about),
            _clips_table(results, keys),
            _means_table(means(results)),
        ]
    )


def _clips_table(results: Sequence[Result], keys: Mapping[str, str]) -> str:
    cells = [
        [
            result["clip"],
            f"{result['hole_fraction']:.1%}",
            *(decibels(result["psnr_hole_db"][key]) for key in keys.values()),
            *_stage_cells(result),
        ]
        for result in results
    ]
    return markdown_table(["clip", "hole", *keys, *_STAGE_HEADER], cells)


_STAGE_HEADER = ["filled b", "filled d", "flow error b", "flow error d", "estimated outside"]


def _stage_cells(result: Result) -> list[str]:
    def cell(figures: Mapping[str, float | None] | None, name: str, show: Callable[[float], str]) -> str:
        value = (figures or {}).get(name)
        return "" if value is None else show(value)

    filled = [cell(result["filled"], name, "{:.1%}".format) for name in ("propagation", "affine")]
    errors = ("propagation", "affine", "estimated_outside")
    return filled + [cell(result["flow_epe_px"], name, "{:.2f} px".format) for name in errors]


def _means_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        others = row["ours_minus"]
        differences = [_shown_difference(others[method]) for method in others]
        psnr = ["" if value is None else decibels(value) for value in row["psnr_hole_db"].values()]
        cells.append([row["set"], str(row["clips"]), *psnr, *differences, *_stage_cells(row)])
    first = rows[0]
    minus = [f"ours - {method}" for method in first["ours_minus"]]
    return markdown_table(["mean of", "clips", *first["psnr_hole_db"], *minus, *_STAGE_HEADER], cells)


def _shown_difference(difference: Mapping[str, Any]) -> str:
    if difference["mean_db"] is None:
        return ""
    interval = difference["ci95_db"]
    shown = "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return f"{difference['mean_db']:+.2f} dB{shown}"
