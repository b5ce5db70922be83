"""`evaluation.json`: quality of variants against the truth on a set of videos, checked and with typed access."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.records import schema
from analysis.records.parquet import flattened

KIND = "evaluation"


@dataclass(frozen=True)
class Figure:
    """Hold a figure over videos: `value` in the figure's unit, its 95% interval, and of how many videos it is.

    The interval is None where there were too few videos for one.
    """

    value: float
    ci95: list[float] | None
    videos: int


@dataclass(frozen=True)
class EvaluatedVariant:
    """Hold one variant of an evaluation. What is not known is missing in the mappings, or None.

    Attributes:
        name: what differs from published.
        id: as in the records, with the hash of the settings.
        options: settings by `group.setting`.
        videos, failed: how many went well, and how many did not.
        means: by figure: psnr_db, ssim, psnr_hole_db, psnr_background_db, lpips, warping_error, ...
        ci95: the means' 95% intervals, [low, high].
        differences: by figure, this variant's less the baseline's, over the videos that both have.
        speedup: over the baseline; above 1 is faster.
    """

    name: str
    id: str
    command: str | None
    options: Mapping[str, Any]
    videos: int
    failed: int
    means: Mapping[str, float]
    ci95: Mapping[str, list[float]]
    differences: Mapping[str, Figure]
    speedup: Figure | None
    frames_per_s: float | None
    peak_bytes: int | None
    memory_kind: str | None


@dataclass(frozen=True)
class Evaluation:
    """Hold the evaluation of one file.

    Attributes:
        path: the file.
        dataset: `name`, `videos`, `frames`, `height` and `width` (None where videos differ).
        protocol: the settings of the schedule, and how the figures were computed.
        flow: along which flow the warping error is, in words.
        weights, environment: as in a record.
        baseline: the id of the variant that differences and speedups are over.
        disturbed: what disturbed the times, a sentence each; figures of quality stay sound.
    """

    path: str
    dataset: Mapping[str, Any]
    protocol: Mapping[str, Any]
    flow: str | None
    weights: Mapping[str, Any]
    environment: Mapping[str, Any]
    variants: tuple[EvaluatedVariant, ...]
    baseline_id: str
    disturbed: tuple[str, ...]

    @property
    def baseline(self) -> EvaluatedVariant:
        """Return the variant that differences and speedups are over."""
        return next(variant for variant in self.variants if variant.id == self.baseline_id)


def from_document(document: Mapping[str, Any], path: str) -> Evaluation:
    """Return the evaluation that a file's content holds.

    Args:
        document: the parsed JSON, of kind `evaluation`.
        path: the file, as it is named in messages.

    Raises:
        ValueError: a key is missing or has another type, or the content contradicts itself; a clause says which.
    """
    if wrong := schema.validation_error(document, "evaluation_file") or _contradiction(document):
        raise ValueError(wrong)
    return Evaluation(
        path=path,
        dataset=document["dataset"],
        protocol=document.get("protocol") or {},
        flow=document.get("flow"),
        weights=document["weights"],
        environment=document["environment"],
        variants=tuple(_variant(one) for one in document["variants"]),
        baseline_id=document["baseline"],
        disturbed=tuple(document.get("disturbed") or ()),
    )


def _contradiction(document: Mapping[str, Any]) -> str | None:
    ids = [variant["id"] for variant in document["variants"]]
    if document["baseline"] not in ids:
        return f"its baseline {document['baseline']} is not among its variants"
    if twice := next((one for one in ids if ids.count(one) > 1), None):
        return f"it has the variant {twice} twice"
    for variant in document["variants"]:
        found = {**variant["ci95"]} if variant.get("ci95") else {}
        found |= {name: one and one.get("ci95") for name, one in (variant.get("minus_baseline") or {}).items()}
        found["speedup"] = (variant.get("speedup") or {}).get("ci95")
        for name, interval in found.items():
            if interval and interval[0] > interval[1]:
                return f"an interval of {variant['id']}, {name}, ends below its start"
    return None


def _variant(content: Mapping[str, Any]) -> EvaluatedVariant:
    return EvaluatedVariant(
        name=content["name"],
        id=content["id"],
        command=content.get("command"),
        options=flattened(content.get("options") or {}),
        videos=content["videos"],
        failed=content.get("failed") or 0,
        means=_known(content["means"]),
        ci95=_known(content.get("ci95") or {}),
        differences={
            name: figure
            for name, one in (content.get("minus_baseline") or {}).items()
            if (figure := _figure(one, "mean")) is not None
        },
        speedup=_figure(content.get("speedup"), "median"),
        frames_per_s=content.get("frames_per_s"),
        peak_bytes=content.get("peak_bytes"),
        memory_kind=content.get("memory_kind"),
    )


def _known(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if value is not None}


def _figure(content: Mapping[str, Any] | None, key: str) -> Figure | None:
    if content is None or content.get(key) is None:
        return None
    return Figure(content[key], content.get("ci95"), content.get("videos") or 0)
