"""What a variant loses of the PSNR in the hole to the truth, by an evaluation of many videos or by one clip."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.records.evaluation import EvaluatedVariant, Evaluation, Figure
from analysis.records.parquet import flattened
from analysis.results.pairing import same_variant
from analysis.results.pooling import Row, architecture, name, options, plain, truth_decibel
from analysis.results.soundness import memory_doubt

HOLE = "psnr_hole_db"
"""The figure that a loss is taken of: PSNR over the pixels that were inpainted."""

NOT_LEARNED = "its weights were not learned, so that the truth says nothing of them"


@dataclass(frozen=True)
class Loss:
    """Hold a loss of PSNR in the hole against the truth; below 0 the variant is nearer to the truth than the baseline.

    Attributes:
        mean_db: the baseline's PSNR less the variant's; None where it is not known.
        interval_db: the mean's 95% interval, [low, high]; None where there is none.
        source: what it is of: an evaluation of so many videos, or one clip.
        unknown: why it is not known, in a clause; empty where it is.
    """

    mean_db: float | None
    interval_db: list[float] | None
    source: str
    unknown: str = ""

    @property
    def bound_db(self) -> float | None:
        """Return what a bound is held to: the upper end of the interval, or the mean where there is no interval."""
        return self.mean_db if self.interval_db is None else self.interval_db[1]

    @property
    def text(self) -> str:
        """Return the figure that a bound is held to and where it is from, in words; empty where it is not known."""
        if self.bound_db is None:
            return ""
        if self.interval_db is None:
            return f"loses {decibels(self.bound_db)} to the truth ({self.source}, without an interval)"
        if self.interval_db == [0.0, 0.0]:
            return f"loses nothing to the truth ({self.source})"
        return (
            f"loses at most {decibels(self.bound_db)} to the truth (upper end of the 95% interval, the mean is "
            f"{decibels(self.mean_db)}; {self.source})"
        )


def decibels(value: float | None) -> str:
    """Return a small difference of PSNR: "0.021 dB"."""
    return "" if value is None else f"{round(value, 3) + 0.0:.3f} dB"


def learned(evaluation: Evaluation) -> bool:
    """Return whether the weights were learned: with others what is painted says nothing."""
    return evaluation.weights.get("source") not in (None, "seeded")


def size(evaluation: Evaluation) -> str:
    """Return what was evaluated: "davis, 50 videos, 3,455 frames of 432x240"."""
    dataset = evaluation.dataset
    text = f"{dataset['name']}, {videos(dataset['videos'])}"
    if dataset.get("frames"):
        text += f", {dataset['frames']:,} frames"
        if dataset.get("height") and dataset.get("width"):
            text += f" of {dataset['width']}x{dataset['height']}"
    return text


def videos(count: int) -> str:
    """Return a number of videos: "1 video", "20 videos"."""
    return f"{count} video" if count == 1 else f"{count} videos"


def rows_of_evaluation(evaluation: Evaluation) -> list[Row]:
    """Return the variants as rows in the form of `variants_table`'s, in the evaluation's order.

    Besides its columns, as far as an evaluation knows them: `evaluation` (what was evaluated, in words), `truth.loss`
    (a `Loss`) and `truth.psnr_hole_db` (the mean). `speedup.*` is over the baseline, whose own is 1. A speedup without
    an interval, or of times that were disturbed, is doubtful. A variant that failed on a video is `failed`.
    """
    common = flattened({"weights": dict(evaluation.weights), "environment": dict(evaluation.environment)})
    common |= {f"data.{key}": value for key, value in evaluation.dataset.items()}
    rows = []
    for variant in evaluation.variants:
        row = common | {
            "variant.id": variant.id,
            "variant.name": name(variant.id),
            "variant.label": label(variant, evaluation),
            **{f"variant.options.{key}": value for key, value in variant.options.items()},
            "status": "failed" if variant.failed or not variant.videos else "ok",
            "run.command": variant.command,
            "memory.kind": variant.memory_kind,
            "memory.peak_bytes": variant.peak_bytes,
            "evaluation": size(evaluation),
            "truth.loss": evaluated_loss(variant, evaluation),
            "truth.psnr_hole_db": variant.means.get(HOLE),
        }
        row["doubt.memory"] = memory_doubt(row | {"disturbed": evaluation.disturbed})
        rows.append({key: value for key, value in (row | _speedup(variant, evaluation)).items() if value is not None})
    return rows


def label(variant: EvaluatedVariant, evaluation: Evaluation) -> str:
    """Return the variant's name, with the settings in which it differs from its namesakes in the evaluation."""
    alike = [one.options for one in evaluation.variants if one.name == variant.name]
    telling = [key for key in variant.options if any(one.get(key) != variant.options[key] for one in alike)]
    shown = ", ".join(f"{key}={plain(variant.options[key])}" for key in telling)
    return f"{variant.name} ({shown})" if shown else variant.name


def speed_doubt(variant: EvaluatedVariant, evaluation: Evaluation) -> str | None:
    """Return what makes a variant's speedup doubtful, in a clause; None where it is sound, and of the baseline."""
    if variant.id == evaluation.baseline_id:
        return None
    if evaluation.disturbed:
        return f"the evaluation was disturbed while it was timed ({evaluation.disturbed[0]})"
    if variant.speedup is None:
        return f"{variant.name} has no speedup"
    return f"{variant.name} was timed on too few videos for an interval" if variant.speedup.ci95 is None else None


def evaluated_loss(variant: EvaluatedVariant, evaluation: Evaluation) -> Loss:
    """Return a variant's loss against the evaluation's baseline."""
    source = f"evaluation of {videos(variant.videos)} of {evaluation.dataset['name']}"
    if not learned(evaluation):
        return Loss(None, None, source, NOT_LEARNED)
    if variant.failed or not variant.videos:
        tried = variant.videos + variant.failed
        return Loss(None, None, source, f"it failed on {variant.failed} of {videos(tried)} of the evaluation")
    if variant.id == evaluation.baseline_id:
        return Loss(0.0, [0.0, 0.0], f"{source}, whose baseline it is")
    figure = variant.differences.get(HOLE)
    if figure is None:
        return Loss(None, None, source, "its evaluation has no difference of PSNR in the hole")
    source = f"evaluation of {videos(figure.videos)} of {evaluation.dataset['name']}"
    return Loss(-figure.value, _negated(figure), source)


def recorded_loss(row: Row) -> Loss:
    """Return the loss of a row of `variants_table` against its fp32 reference, on its own clip alone."""
    own, reference = truth_decibel(row), truth_decibel(row, "reference_")
    if row.get("weights.source") == "seeded":
        return Loss(None, None, "this clip alone", NOT_LEARNED)
    if own is None or reference is None:
        return Loss(None, None, "this clip alone", "what it loses to the truth is not known")
    return Loss(0.0 if own == reference else reference - own, None, "this clip alone")


def loss_of(row: Row, evaluations: Sequence[Evaluation]) -> Loss:
    """Return a row's loss: by the evaluations of its variant, the worst of them, else by its own clip's record.

    An evaluation answers where it is of the same variant, weights, widths and kind of device, and its baseline is the
    published variant. The schedule may differ, since the variant and the baseline have it alike; `source` says so.
    """
    found = [loss for evaluation in evaluations if (loss := _matched(row, evaluation)) is not None]
    if not found:
        return recorded_loss(row)
    return max(found, key=lambda loss: math.inf if loss.bound_db is None else loss.bound_db)


def unused(rows: Iterable[Row], evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a sentence for each evaluation that says nothing of any of these rows: what in it is another one."""
    rows, sentences = list(rows), []
    for evaluation in evaluations:
        if any(_matched(row, evaluation) is not None for row in rows):
            continue
        why = next((words for row in rows if (words := _obstacle(row, evaluation))), "it has none of these variants")
        sentences.append(f"The evaluation on {size(evaluation)} is not used here: {why}.")
    return sentences


def _matched(row: Row, evaluation: Evaluation) -> Loss | None:
    """Return the loss of the row's variant in an evaluation; None where that does not answer."""
    if _obstacle(row, evaluation):
        return None
    candidates = list(zip(rows_of_evaluation(evaluation), evaluation.variants, strict=True))
    for one, _ in candidates:
        if same_variant(row, one):
            return one["truth.loss"]
    schedule = _schedule(evaluation.baseline)
    for one, variant in candidates:
        if _schedule(variant) == schedule and same_variant(_unscheduled(row), _unscheduled(one)):
            loss = one["truth.loss"]
            return Loss(loss.mean_db, loss.interval_db, f"{loss.source}, with another schedule", loss.unknown)
    return None


def _obstacle(row: Row, evaluation: Evaluation) -> str | None:
    weights, environment = evaluation.weights, evaluation.environment
    if weights.get("fingerprint") is None:
        return "its weights are not known"
    if row.get("weights.fingerprint") != weights.get("fingerprint"):
        return f"its weights are others ({weights.get('source')}, {str(weights.get('fingerprint'))[:8]})"
    widths = weights.get("architecture") or "published"
    if architecture(row) != widths:
        return f"it is of the {widths} networks"
    if row.get("environment.device_type") != environment.get("device_type"):
        return f"it was made on {environment.get('device')}"
    if name(evaluation.baseline_id) != "published":
        return f"its baseline is {evaluation.baseline.name}, not published"
    return None


def _schedule(variant: EvaluatedVariant) -> dict[str, object]:
    return {key: value for key, value in variant.options.items() if key.startswith("schedule.")}


def _unscheduled(row: Row) -> Row:
    """Return a row without id and schedule, so that name and settings decide."""
    dropped = {f"variant.options.{key}" for key in options(row, "schedule.")} | {"variant.id"}
    kept = {key: value for key, value in row.items() if key not in dropped}
    return kept | {"variant.id": object()}


def _speedup(variant: EvaluatedVariant, evaluation: Evaluation) -> Row:
    if variant.id == evaluation.baseline_id:
        return {"speedup.kind": "paired", "speedup.median": 1.0, "speedup.ci95": [1.0, 1.0]}
    doubt = speed_doubt(variant, evaluation)
    figure: Row = {"speedup.kind": "paired", "speedup.baseline": evaluation.baseline_id, "doubt.speedup": doubt}
    if variant.speedup is not None:
        figure |= {"speedup.median": variant.speedup.value, "speedup.ci95": variant.speedup.ci95}
    return figure | {"doubt.latency": doubt}


def _negated(figure: Figure) -> list[float] | None:
    return None if figure.ci95 is None else [-figure.ci95[1], -figure.ci95[0]]
