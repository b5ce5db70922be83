"""recommend: what it prints, within which bounds, and its exit codes."""

import pytest
from support.records_fixture import MIB, make_record

GIB = 2**30


class TestRecommend:
    def test_the_fastest_and_its_command(self, run):
        code, out, _ = run("recommend")
        assert code == 0
        assert "The fastest of 4 measured and sound:\n  attention=sdpa\n" in out
        assert "    python run.py attention=sdpa data.num_frames=6" in out
        assert "1.33x (1.28 to 1.39) published's speed, unpaired" in out
        assert "precision=amp was disturbed while it was timed (load 3.0). To measure it again" in out

    def test_within_bounds(self, run):
        code, out, _ = run("recommend", "--min-psnr-hole-db", "40")
        assert code == 0
        assert "The fastest of 4 measured and sound within the bounds:\n  attention=sdpa\n" in out
        assert out.index("Runners-up") < out.index("\n  published\n") < out.index("\n  chunking=fixed\n")

    def test_for_memory(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "50", "--for", "memory")
        assert "The smallest of 4 measured within the bounds:\n  attention=sdpa\n" in out

    def test_identical_is_within_any_bound_on_psnr(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "200", "--max-memory-gb", "1")
        assert "\n  published\n" in out
        assert "identical in the hole" in out

    def test_seeded_weights_make_it_agreement(self, run):
        _, out, _ = run("recommend", "--min-psnr-hole-db", "40")
        assert "40 dB is a bound on numerical agreement with the fp32 reference here, not on visual quality" in out
        learned = [make_record(weights="pretrained")]
        assert "agreement" not in run("recommend", "--min-psnr-hole-db", "40", records=learned)[1]

    def test_small_networks_are_named(self, run):
        out = run("recommend", "--min-psnr-hole-db", "40", records=[make_record(weights="small")])[1]
        assert "; small weights\n" in out and "narrower than the published ones" in out and "agreement" not in out
        out = run("recommend", records=[make_record(architecture="small")])[1]
        assert "; seeded weights of the small networks\n" in out

    def test_nothing_fits(self, run):
        code, out, _ = run("recommend", "--max-memory-gb", "0.25", "--max-latency-s", "8.5")
        assert code == 1
        assert "Nothing that was measured fits. The nearest:\n  chunking=fixed\n" in out
        assert "0.29 GiB of host memory, over the 0.25 GiB of host memory of --max-memory-gb" in out
        assert "9.00 s, over the 8.50 s of --max-latency-s" in out

    def test_vram_is_of_gpus(self, run):
        code, _, err = run("recommend", "--max-vram-gb", "8")
        assert code == 2
        assert "without a GPU" in err
        gpu = [make_record(device="H100", device_type="cuda", peak_bytes=int(7.5 * GIB))]
        code, out, _ = run("recommend", "--max-vram-gb", "8", records=gpu)
        assert code == 0
        assert "On this card the process held 9.00 GiB" in out
        assert "limits.vram_gb=8" in out

    def test_runners_up_that_may_be_as_fast(self, run):
        records = [make_record(seconds=8.0), make_record(attention="sdpa", seconds=7.9)]
        assert "not shown to be slower: the intervals overlap" in run("recommend", records=records)[1]

    def test_an_answer_for_each_clip(self, run):
        records = [make_record(), make_record(frames=7)]
        out = run("recommend", records=records)[1]
        assert out.count("The fastest of 1 measured") == 2

    def test_only_disturbed_ones_are_no_recommendation(self, run):
        records = [
            make_record(disturbed=["load 3.0"]),
            make_record(attention="sdpa", seconds=6.0, disturbed=["load 3.0"]),
        ]
        code, out, _ = run("recommend", records=records)
        assert code == 1
        assert "Nothing can be recommended: none of the 2 measured has a sound figure." in out
        assert (
            "attention=sdpa was disturbed while it was timed (load 3.0). To measure it again on a quiet machine:" in out
        )
        assert "\n      python run.py attention=sdpa data.num_frames=6" in out

    def test_no_speedup_over_a_disturbed_published_run(self, run):
        records = [make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", seconds=4.8)]
        code, out, _ = run("recommend", records=records)
        assert code == 0
        assert "The fastest of 2 measured and sound:\n  attention=sdpa\n    4.80 s (4.66 to 4.94);" in out
        assert "no speedup is stated: published was disturbed while it was timed (load 3.0)" in out
        assert "published's speed" not in out

    def test_busy_processes_leave_memory_as_it_is(self, run):
        records = [make_record(), make_record(attention="sdpa", peak_bytes=200 * MIB, disturbed=["load 3.0"])]
        _, out, _ = run("recommend", "--for", "memory", records=records)
        assert "The smallest of 2 measured:\n  attention=sdpa\n" in out
        code, out, _ = run("recommend", "--for", "memory", "--max-latency-s", "100", records=records[1:])
        assert code == 1, "a disturbed time does not show that a bound on it is kept"
        assert "it has no sound time (--max-latency-s 100)" in out

    def test_nothing_went_well(self, run):
        code, _, err = run("recommend", records=[make_record(status="failed")])
        assert (code, "nothing to recommend" in err) == (2, True)

    @pytest.mark.parametrize("value", ["-1", "x", "nan"])
    def test_bounds_are_positive_numbers(self, run, value):
        with pytest.raises(SystemExit) as stop:
            run("recommend", "--max-latency-s", value)
        assert stop.value.code == 2
