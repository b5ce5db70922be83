"""What was published of ProPainter's quality, to compare an evaluation with."""

from collections.abc import Mapping
from typing import Any

TOLERANCE_DB = 0.35
"""How far a mean PSNR may be from the paper's and still agree: a user's run of the released weights gave 0.30 dB less
(sczhou/ProPainter, issue 55)."""

PAPER: dict[str, dict[str, float]] = {
    "davis": {"psnr_db": 34.47, "ssim": 0.9776},
    "youtube_vos": {"psnr_db": 34.43, "ssim": 0.9735},
}
"""Means of the paper (Zhou et al., "ProPainter", ICCV 2023, table 1) by set."""

BY_VIDEO: dict[str, dict[str, tuple[float, float]]] = {
    "davis": {
        "bear": (32.9378, 0.9739),
        "blackswan": (31.2961, 0.9438),
        "bmx-bumps": (38.9452, 0.9797),
        "bmx-trees": (43.2590, 0.9916),
        "boat": (28.0768, 0.8987),
        "breakdance": (25.5336, 0.9496),
        "breakdance-flare": (30.4086, 0.9576),
    }
}
"""PSNR in dB and SSIM of single videos by a user's run of the released weights (sczhou/ProPainter, issue 55)."""


PROTOCOL = {
    **{"raft_iterations": 20, "neighbor_length": 20, "ref_stride": 10, "mask_dilation": 4},
    "average": "float",
}
"""The published evaluation's settings, as an evaluation's document names them."""

VIDEOS = {"davis": 50, "youtube_vos": 508}
"""Videos that the paper measured, by set."""


def verdict(
    dataset: str, videos: int, weights_source: str, departure: str | None, published: Mapping[str, Any]
) -> str | None:
    """Return what an evaluation says beside the paper, in a sentence; None where the set has no paper.

    Args:
        dataset: name of the set.
        videos: number that went well.
        weights_source: "pretrained", "small" or "seeded".
        departure: in what the variant or the protocol is not the published one, in a clause; None where it is.
        published: the variant's row, with its `means`.
    """
    paper = PAPER.get(dataset)
    if paper is None:
        return None
    psnr_db = published["means"]["psnr_db"]
    if weights_source != "pretrained":
        why = f"these are {weights_source} weights, not the released ones"
    elif departure is not None:
        why = departure
    elif psnr_db is None or videos != VIDEOS[dataset]:
        why = f"{videos} of the paper's {VIDEOS[dataset]} videos were measured"
    else:
        off = psnr_db - paper["psnr_db"]
        how = "agrees with" if abs(off) <= TOLERANCE_DB else "differs from"
        return f"{how} the paper: {off:+.2f} dB, tolerance {TOLERANCE_DB} dB"
    return f"is not comparable with the paper: {why}"


def anchors(dataset: str, video: str) -> dict[str, Any] | None:
    """Return the published figures of one video, `psnr_db` and `ssim`; None where there are none."""
    found = BY_VIDEO.get(dataset, {}).get(video)
    return None if found is None else {"psnr_db": found[0], "ssim": found[1]}
