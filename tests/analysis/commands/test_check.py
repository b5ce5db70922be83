"""The gate: green on what is unchanged, red on each kind of regression, 2 on what can't be compared."""

import pytest
from support.records_fixture import MIB, make_record, write_sweep
from support.sweeps import SDPA

from analysis.__main__ import main


class TestGreen:
    def test_unchanged(self, blessed):
        code, out = blessed.check(make_record(), make_record(**SDPA))
        assert code == 0
        assert out == "fine: 2 variants compared, performance of 2\n"

    def test_noise_whose_intervals_overlap(self, blessed):
        code, _ = blessed.check(make_record(seconds=8.48, noise=0.04), make_record(**SDPA))
        assert code == 0

    def test_faster_smaller_and_closer(self, blessed):
        better = dict(seconds=3.0, peak_bytes=200 * MIB)
        code, out = blessed.check(make_record(**better), make_record(**SDPA | better | {"psnr_hole_db": 90.0}))
        assert code == 0, out

    def test_a_sweep_folder_is_a_baseline_too(self, gate, capsys):
        folders = [str(gate.sweep([make_record()])) for _ in range(2)]
        assert main(["check", folders[0], "--baseline", folders[1]]) == 0

    def test_a_new_variant_is_noted(self, blessed):
        code, out = blessed.check(make_record(), make_record(**SDPA), make_record(precision="amp"))
        assert code == 0
        assert "note: not in the baseline: precision=amp" in out

    def test_a_new_group_changes_ids_and_nothing_else(self, blessed):
        renamed = make_record(**SDPA)
        renamed["variant"] |= {"id": "attention=sdpa#ffffffff", "reuse": "none"}
        renamed["variant"]["options"]["reuse"] = {"span": 3}
        code, out = blessed.check(make_record(), renamed)
        assert code == 0, out

    def test_other_torch_compares_accuracy_alone(self, blessed):
        changed = dict(torch="2.16.0", seconds=20.0)
        code, out = blessed.check(make_record(**changed), make_record(**SDPA | changed | {"psnr_hole_db": 70.0}))
        assert code == 0
        assert "performance is not compared: measured on AMD EPYC, torch 2.15.0 and AMD EPYC, torch 2.16.0" in out

    def test_disturbed_runs_count_for_accuracy_alone(self, blessed):
        disturbed = dict(disturbed=["load 4.0"], seconds=20.0)
        code, out = blessed.check(make_record(**disturbed), make_record(**SDPA | {"psnr_hole_db": 60.0} | disturbed))
        assert code == 1
        assert "performance is not compared: this run was disturbed (load 4.0)" in out
        assert "latency" not in out
        assert "85.0 dB -> 60.0 dB" in out


class TestRed:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"psnr_hole_db": 84.4}, "quality.psnr_hole_db: 85.0 dB -> 84.4 dB"),
            ({"quality__ssim": 0.99}, "quality.ssim: 0.99994 -> 0.99000"),
            ({"quality__lpips": 0.02}, "quality.lpips: 0.00006 -> 0.02000"),
            ({"status": "failed", "reason": "killed"}, "status: ok -> failed: killed"),
            ({"quality": None}, "quality.psnr_hole_db: 85.0 dB -> unknown: the run was not compared"),
            ({"quality": None, "quality_reason": "too large"}, "quality.psnr_hole_db: 85.0 dB -> unknown: too large"),
            ({"seconds": 6.9}, "latency.median_s: 6.00 s (5.82 to 6.18) -> 6.90 s (6.69 to 7.11)"),
            ({"peak_bytes": 440 * MIB}, "memory.peak_bytes: 352 MiB -> 440 MiB"),
        ],
    )
    def test_a_variant(self, blessed, change, expected):
        code, out = blessed.check(make_record(), make_record(**SDPA | change))
        assert code == 1
        assert f"  attention=sdpa: {expected}" in out
        assert out.count("\n  ") == 1, "nothing else is red"

    def test_bit_equality_lost(self, blessed):
        code, out = blessed.check(make_record(psnr_hole_db=95.0), make_record(**SDPA))
        assert code == 1
        assert "published: quality.identical: identical -> 95.0 dB" in out

    def test_a_shift_that_reference_and_variants_share(self, blessed):
        code, out = blessed.check(make_record(), make_record(**SDPA), reference_error=1)
        assert code == 1
        assert "reference: frames: bit-equal -> 48.1 dB from the baseline's" in out

    def test_the_reference_on_another_torch_has_a_tolerance(self, blessed):
        other = dict(torch="2.16.0")
        records = make_record(**other), make_record(**SDPA | other)
        assert blessed.check(*records)[0] == 0
        code, out = blessed.check(*records, reference_error=1)
        assert code == 1
        assert "on another torch and processor at least 60 dB is expected" in out
        assert blessed.check(*records, reference_error=1, options=["--reference-psnr", "45"])[0] == 0

    def test_another_processor_of_the_same_name_has_a_tolerance(self, blessed):
        records = make_record(cpu="AMD EPYC, avx2"), make_record(**SDPA | {"psnr_hole_db": 70.0}, cpu="AMD EPYC, avx2")
        assert blessed.check(*records)[0] == 0

    def test_tolerant(self, blessed):
        records = make_record(), make_record(**SDPA)
        options = ["--tolerant", "--reference-psnr", "45"]
        assert blessed.check(*records, reference_error=1, options=options)[0] == 0

    def test_a_variant_that_is_gone(self, blessed):
        code, out = blessed.check(make_record())
        assert code == 1
        assert "attention=sdpa: status: ok -> absent" in out
        assert blessed.check(make_record(), options=["--subset"])[0] == 0

    def test_a_damaged_record_is_a_variant_that_is_gone(self, blessed, capsys):
        folder = blessed.sweep([make_record(), make_record(**SDPA)])
        (folder / "1" / "record.json").write_text("{")
        assert main(["check", str(folder), "--baseline", str(blessed.baseline)]) == 1
        assert "1/record.json is left out" in capsys.readouterr().out

    def test_under_the_floor(self, blessed):
        records = make_record(), make_record(**SDPA)
        code, out = blessed.check(*records, options=["--psnr-floor", "90"])
        assert code == 1
        assert "attention=sdpa: quality.psnr_hole_db" in out
        assert "published: " not in out

    def test_bounds_can_be_wider(self, blessed):
        slower = make_record(), make_record(**SDPA | {"seconds": 6.9, "psnr_hole_db": 83.0})
        options = ["--slower", "0.2", "--psnr-drop", "3"]
        assert blessed.check(*slower, options=options)[0] == 0
        assert blessed.check(*slower, options=["--accuracy-only", "--psnr-drop", "3"])[0] == 0

    def test_other_lpips_networks_are_not_compared(self, blessed):
        changed = make_record(**SDPA, quality__lpips=0.5, quality__lpips_net="st_alex")
        assert blessed.check(make_record(), changed)[0] == 0

    def test_a_paired_speedup_that_shrank(self, gate):
        gate.bless(make_record(attention="sdpa", paired=1.5))
        code, out = gate.check(make_record(attention="sdpa", paired=1.2))
        assert code == 1
        assert "attention=sdpa: speedup.median: 1.50x (1.46 to 1.54) -> 1.20x" in out


class TestNotComparable:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"weights": "pretrained"}, "other weights: seeded weights"),
            ({"weights": "small"}, "other architecture: the published networks before, the small networks now"),
            ({"weights": "small"}, "other weights: seeded weights"),
            ({"frames": 7}, "other data: sample, 6 frames of 160x128"),
            ({"device_type": "cuda"}, "other device: cpu before, cuda now"),
            ({"schema": 1}, "other schema: schema 2 before, schema 1 now"),
            ({"attention": "manual_upcast"}, "they have no variant in common"),
            ({"options": {"schedule": {"raft_iterations": 2}}}, "schedule.raft_iterations is 20 before, 2 now"),
        ],
    )
    def test_says_which(self, gate, change, expected):
        gate.bless(make_record())
        code, out = gate.check(make_record(**change))
        assert code == 2
        assert out.startswith("not comparable:")
        assert expected in out

    def test_without_previews(self, blessed, tmp_path, capsys):
        folder = write_sweep(tmp_path / "bare", [make_record(), make_record(**SDPA)])
        assert main(["check", str(folder), "--baseline", str(blessed.baseline)]) == 2
        assert "has no preview/NNNNN_reference.png" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (None, "can't be read"),
            ("{", "is no baseline, or damaged"),
            ("[]", "is no baseline"),
            ('{"kind": "baseline", "schema": 9}', "schema 9, this reads schema 1"),
            ('{"kind": "baseline", "schema": 1}', "lacks variants or references"),
            ('{"kind": "baseline", "schema": 1, "variants": [{}], "references": {}}', "damaged baseline"),
        ],
    )
    def test_no_baseline(self, gate, capsys, content, expected):
        if content:
            gate.baseline.write_text(content)
        assert gate.check(make_record())[0] == 2
        main(["check", str(gate.folder / "1"), "--baseline", str(gate.baseline)])
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("\n") == 1
