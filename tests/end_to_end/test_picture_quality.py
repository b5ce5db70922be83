"""What variants cost in quality, with weights that paint: PSNR in the hole against the truth beside published's."""

import json
from pathlib import Path

import pytest
from support.run_many import run_many

CLIP = ["weights=small", "data.num_frames=24", "data.height=128", "data.width=160"]
ONCE = [
    *("measure.min_samples=0", "measure.max_samples=0", "measure.max_warmups=0", "measure.flops=false"),
    "quality.lpips=false",
]

VARIANTS = {
    "whole": [],
    "chunks": ["chunking=fixed", "chunking.size=12", "chunking.overlap=2"],
    "scenes": ["scenes=file", "scenes.path={cuts}"],
    "amp": ["precision=amp"],
}


@pytest.fixture(scope="module")
def psnr_db(tmp_path_factory) -> dict[str, float]:
    """PSNR in the hole against the truth, by variant."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "cuts.txt").write_text("12\n")
    lines = [
        [*CLIP, *(item.format(cuts=folder / "cuts.txt") for item in own), *ONCE]
        + [f"hydra.run.dir={folder / name}", f"cache.dir={folder / 'cache'}"]
        for name, own in VARIANTS.items()
    ]
    for ran in run_many(lines, folder):
        assert ran.code == 0, ran.text
    return {name: truth(folder / name) for name in VARIANTS}


def truth(folder: Path) -> float:
    return json.loads((folder / "record.json").read_text())["quality"]["truth"]["psnr_hole_db"]


@pytest.mark.slow
def test_the_cup_is_gone(psnr_db):
    assert psnr_db["whole"] > 18


@pytest.mark.slow
def test_autocast_costs_nothing_that_is_seen(psnr_db):
    assert psnr_db["amp"] == pytest.approx(psnr_db["whole"], abs=0.1)


@pytest.mark.slow
def test_a_chunk_does_not_see_what_other_chunks_show(psnr_db):
    """Half of the frames show less of what the cup hides; the overlap is seen by both sides, a cut by one."""
    assert psnr_db["scenes"] < psnr_db["chunks"] < psnr_db["whole"] - 1
    assert psnr_db["scenes"] > 15
