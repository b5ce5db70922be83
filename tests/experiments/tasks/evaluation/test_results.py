"""Means over frames, differences over common videos, their intervals, and the table."""

import numpy as np
import pytest

from experiments.tasks.evaluation.published_figures import PROTOCOL, anchors, verdict
from experiments.tasks.evaluation.results import FIGURES, departure, markdown, pooled

VARIANTS = [{"id": f"{name}#1", "name": name, "command": f"python run.py {name}", "options": {}} for name in "ab"]


def row(
    video: str,
    variant: str,
    psnr: float | None,
    seconds: float = 1.0,
    frames: int = 10,
    status: str = "ok",
    first: bool = False,
):
    metrics = dict.fromkeys(FIGURES, None) | {"psnr_db": psnr, "psnr_hole_db": psnr, "ssim": 0.9, "identical_frames": 0}
    found = (
        {"metrics": metrics, "seconds": seconds, "first_of_process": first}
        if status == "ok"
        else {"metrics": {}, "seconds": None, "first_of_process": None}
    )
    memory = {"peak_bytes": 10 + len(video), "memory_kind": "rss", "height": 240, "width": 432}
    return {
        "video": video,
        "variant": f"{variant}#1",
        "status": status,
        "reason": None,
        "frames": frames,
        **memory,
    } | found


def test_means_count_frames_as_the_paper_does():
    rows = [
        row("x", "a", 30.0, frames=10),
        row("y", "a", 40.0, frames=30),
        row("z", "a", None),
        row("w", "a", 0, status="failed"),
    ]
    (only,) = pooled(VARIANTS[:1], rows)
    assert only["means"]["psnr_db"] == pytest.approx(37.5) and only["means"]["lpips"] is None
    assert (only["videos"], only["failed"], only["ci95"]["psnr_db"], only["minus_baseline"]) == (3, 1, None, None)
    assert only["peak_bytes"] == 11


def test_differences_are_of_the_videos_that_both_have():
    first = [row(f"v{n}", "a", 30.0 + n, frames=10 + n) for n in range(8)]
    second = [row(f"v{n}", "b", 29.9 + n + 0.01 * n, frames=10 + n) for n in range(1, 9)]
    _, other = pooled(VARIANTS, first + second)
    difference = other["minus_baseline"]["psnr_db"]
    values, weights = [-0.1 + 0.01 * n for n in range(1, 8)], [10 + n for n in range(1, 8)]
    assert difference["videos"] == 7
    assert difference["mean"] == pytest.approx(np.average(values, weights=weights))
    low, high = difference["ci95"]
    assert -0.1 < low < difference["mean"] < high < 0
    assert other["minus_baseline"]["lpips"] == {"mean": None, "ci95": None, "videos": 0}


def test_speed_leaves_out_a_processes_first_run():
    first = [row(f"v{n}", "a", 30, seconds=9.0 if n == 0 else 2.0, first=n == 0) for n in range(4)]
    second = [row(f"v{n}", "b", 30, seconds=1.0) for n in range(4)]
    one, other = pooled(VARIANTS, first + second)
    assert other["speedup"] == {"median": 2.0, "ci95": pytest.approx([2.0, 2.0]), "videos": 3}
    assert one["frames_per_s"] == pytest.approx(5) and one["speedup"] is None


def document(name: str = "davis", source: str = "small", rows: list | None = None):
    rows = rows or [
        row("bear", "a", 32.5),
        row("bear", "b", 32.4),
        row("boat", "b", 0, status="failed") | {"reason": "gone"},
    ]
    return {
        "dataset": {"name": name, "videos": 2, "frames": 20},
        "weights": {"source": source},
        "environment": {"device": "a CPU"},
        "flow": "along DIS",
        "protocol": PROTOCOL,
        "variants": pooled(VARIANTS, rows),
        "rows": rows,
    }


def test_the_table_has_paper_variants_anchors_and_failures():
    text = markdown(document(source="pretrained"))
    assert "| the paper |  | 34.47 | 0.9776 |" in text
    assert "| b | 1 (1 failed) | 32.40 | 0.9000 | 32.40 |  |  | -0.100 | -0.100 |" in text
    assert "| bear | 32.50 | 32.94 | -0.44 | 0.9000 | 0.9739 |" in text
    assert "boat, b#1: failed: gone" in text
    assert "is not comparable with the paper: a is not the published variant" in text
    small = markdown(document())
    assert "these are small weights, not the released ones" in small and "a user's" not in small
    drawn = markdown(document("synthetic"))
    assert "the paper" not in drawn and "bear |" not in drawn


def test_nothing_measured_is_a_table_too():
    assert "| a | 0 (1 failed) |" in markdown(document(rows=[row("bear", "a", 0, status="failed")]))


def test_verdicts_beside_the_paper():
    def said(psnr_db, dataset="davis", videos=50, source="pretrained", departure=None):
        return verdict(dataset, videos, source, departure, {"means": {"psnr_db": psnr_db}})

    assert said(30.0, dataset="synthetic") is None
    assert said(34.20) == "agrees with the paper: -0.27 dB, tolerance 0.35 dB"
    assert said(34.83) == "differs from the paper: +0.36 dB, tolerance 0.35 dB"
    # Seven videos have another mean than fifty: theirs says nothing of the paper's.
    partly = "is not comparable with the paper: 7 of the paper's 50 videos were measured"
    assert said(33.16, videos=7) == partly
    assert said(None, videos=0) == "is not comparable with the paper: 0 of the paper's 50 videos were measured"
    assert said(34.4, departure="fast is not it") == "is not comparable with the paper: fast is not it"


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({}, None),
        ({"id": "precision=amp#1"}, "a is not the published variant"),
        ({"neighbor_length": 10}, "the protocol has neighbor_length=10, and the paper's 20"),
        ({"average": "uint8"}, "the protocol has average=uint8, and the paper's float"),
    ],
)
def test_what_departs_from_the_published_protocol_is_said(change, clause):
    of = document(source="pretrained")
    of["variants"][0] |= {"id": change.get("id", "published#1")}
    of["protocol"] = PROTOCOL | {key: value for key, value in change.items() if key != "id"}
    assert departure(of) == clause


def test_frames_that_are_identical_to_the_truth_have_no_weight_in_psnr():
    rows = [row("x", "a", 30.0, frames=100), row("y", "a", 40.0, frames=10)]
    rows[0]["metrics"]["identical_frames"] = 90
    (only,) = pooled(VARIANTS[:1], rows)
    assert only["means"]["psnr_db"] == pytest.approx(35.0)
    assert only["means"]["psnr_hole_db"] == pytest.approx((30 * 100 + 40 * 10) / 110)


def test_a_difference_over_fewer_videos_says_so():
    rows = [row(f"v{n}", "a", 30.0) for n in range(3)] + [row("v0", "b", 29.0), row("v1", "b", 0, status="failed")]
    assert "-1.000 (1 video)" in markdown(document("synthetic", rows=rows))


def test_anchors_of_single_videos():
    assert anchors("davis", "boat") == {"psnr_db": 28.0768, "ssim": 0.8987} and anchors("davis", "cows") is None
