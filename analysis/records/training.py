"""Rows of `train_benchmark.json` in the form of `micro.json`'s: an update of training instead of a single operation."""

from collections.abc import Iterator, Mapping
from typing import Any

AXES = ("checkpointing", "precision", "attention")


def as_micro_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what differs from the first combination in one setting: `group` is `training_` and the setting's name.

    The first combination comes in each group, without a ratio. `dtype` is the precision, `pass` is "update".
    """
    rows = document["rows"]
    first = rows[0]
    for axis in AXES:
        for row in rows:
            if any(row[other] != first[other] for other in AXES if other != axis):
                continue
            yield {
                **{"group": f"training_{axis}", "option": row[axis], "dtype": first["precision"], "pass": "update"},
                **{"status": row["status"], "reason": row["reason"]},
                **{"median_s": row["update_s"], "ci95_s": row["update_s_ci95"], "ratio": row["ratio"]},
                **{"peak_bytes": row["peak_bytes"], "memory": {"kind": document["memory"]}},
            }


def size(document: Mapping[str, Any]) -> str:
    """Return what an update is of: "generator (published), 1 x 6+2 frames of 96x64"."""
    recipe = document["recipe"]
    frames = "/".join(map(str, recipe["frames"])) + f"+{recipe['references']}"
    where = f"{recipe['width']}x{recipe['height']}"
    return f"{recipe['network']} ({recipe['architecture']}), {recipe['batch']} x {frames} frames of {where}"
