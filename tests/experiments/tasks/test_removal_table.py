"""The table's means and paired differences, by hand."""

import math

from experiments.tasks.removal_table import chosen_algorithms, columns, markdown, means


def result(name: str, of: str, *psnr: float | None, seeded: float | None = None, epe: bool = True) -> dict:
    keys = ["ours", "propagation_telea", "propagation_navier_stokes", "frames_telea", "frames_navier_stokes"]
    keys += ["affine_telea", "affine_navier_stokes"]
    return {
        "set": of,
        "clip": name,
        "hole_fraction": 0.1,
        "psnr_hole_db": dict(zip(keys, psnr, strict=True)) | ({} if seeded is None else {"seeded": seeded}),
        "filled": {"propagation": 0.75, "affine": 0.5},
        "flow_epe_px": {"estimated_outside": 0.25, "propagation": 0.5, "affine": None} if epe else None,
        "affine_fits_failed": 0,
    }


FIRST = [result(f"s{n}", "sample", 30 + n, 28, 27, 20, 21, 25, 24, epe=False) for n in range(2)]
SECOND = [result(f"d{n}", "synthetic", 25 + n % 2, 24, 26, 20, 19, 23, 23.5) for n in range(6)]


def test_the_better_of_the_two_algorithms_over_all_clips_is_the_column():
    assert chosen_algorithms([*FIRST, *SECOND]) == {
        "propagation": "navier_stokes",
        "frames": "telea",
        "affine": "navier_stokes",
    }
    assert chosen_algorithms(FIRST)["propagation"] == "telea"
    assert list(columns(FIRST)) == ["ours", "propagation", "frames", "affine"]
    assert list(columns([result("s", "sample", *[20] * 7, seeded=9.0)]))[:2] == ["ours", "seeded"]


def test_means_are_of_each_set_and_of_all_with_paired_differences():
    sample, synthetic, every = means([*FIRST, *SECOND])
    assert [row["clips"] for row in (sample, synthetic, every)] == [2, 6, 8]
    assert sample["psnr_hole_db"] == {"ours": 30.5, "propagation": 27.0, "frames": 20.0, "affine": 24.0}
    assert sample["ours_minus"]["propagation"] == {"mean_db": 3.5, "ci95_db": None, "clips": 2}
    assert synthetic["ours_minus"]["frames"]["mean_db"] == 5.5
    low, high = synthetic["ours_minus"]["frames"]["ci95_db"]
    assert 5 <= low < 5.5 < high <= 6
    assert math.isclose(every["psnr_hole_db"]["ours"], (2 * 30.5 + 6 * 25.5) / 8)
    assert sample["flow_epe_px"] == {} and synthetic["flow_epe_px"]["propagation"] == 0.5
    assert synthetic["flow_epe_px"]["affine"] is None and every["filled"] == {"propagation": 0.75, "affine": 0.5}
    assert [row["set"] for row in means(FIRST)] == ["sample"]


def test_a_clip_identical_to_the_truth_counts_in_no_mean_of_psnr():
    exact = result("x", "sample", None, None, 30, None, None, None, None)
    row = means([*FIRST, exact])[0]
    assert row["clips"] == 3 and row["psnr_hole_db"]["ours"] == 30.5
    assert row["ours_minus"]["propagation"]["clips"] == 2
    assert chosen_algorithms([exact])["propagation"] == "telea"
    assert means([exact])[0]["psnr_hole_db"]["ours"] is None
    assert "| x | 10.0% | identical | identical |" in markdown([exact])


def test_the_text_names_the_columns_and_has_each_clip_and_each_mean():
    text = markdown([*FIRST, *SECOND])
    assert "each frame by itself, the hole inpainted by OpenCV (telea, the better one)" in text
    assert "| s1 | 10.0% | 31.00 dB | 27.00 dB | 20.00 dB | 24.00 dB | 75.0% | 50.0% |  |  |  |" in text
    assert "| d0 | 10.0% | 25.00 dB | 26.00 dB | 20.00 dB | 23.50 dB | 75.0% | 50.0% | 0.50 px |  | 0.25 px |" in text
    assert "| mean of | clips | ours | propagation | frames | affine | ours - propagation |" in text
    assert "| sample | 2 | 30.50 dB | 27.00 dB | 20.00 dB | 24.00 dB | +3.50 dB | +10.50 dB | +6.50 dB |" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables) and len(tables) == 2
