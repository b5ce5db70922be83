"""recommend: what it prints, within which bounds, and its exit codes."""

import pytest
from support.evaluation_fixture import make_evaluation, make_variant, write_evaluation
from support.records_fixture import MIB, make_record

from analysis.__main__ import main

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


class TestLossToTheTruth:
    """--max-psnr-loss-db: by an evaluation's interval, else by the clip."""

    SMALL = [
        make_record(weights="small", truth_db=24.0),
        make_record(precision="amp", seconds=5.0, weights="small", truth_db=23.7),
        make_record(chunking="fixed", seconds=4.0, weights="small", truth_db=24.0),
    ]

    def test_by_the_evaluation_s_interval(self, run, tmp_path):
        folder = str(write_evaluation(tmp_path / "evaluation"))
        code, out, _ = run("recommend", folder, "--max-psnr-loss-db", "0.1", records=self.SMALL)
        assert code == 0
        assert "The fastest of 3 measured within the bounds:\n  precision=amp\n" in out
        assert "loses at most 0.050 dB to the truth (upper end of the 95% interval" in out
        assert "evaluation of 20 videos of synthetic)" in out
        code, out, _ = run("recommend", folder, "--max-psnr-loss-db", "0.04", records=self.SMALL[1:])
        assert code == 1, "the mean is within the bound, the interval's end is not"
        assert "0.050 dB lost to the truth, over the 0.040 dB lost to the truth of --max-psnr-loss-db" in out

    def test_by_the_clip_alone(self, run, tmp_path):
        out = run("recommend", "--max-psnr-loss-db", "0.1", records=self.SMALL)[1]
        assert "The fastest of 3 measured within the bounds:\n  chunking=fixed\n" in out
        assert "loses 0.000 dB to the truth (this clip alone, without an interval)" in out
        other = str(write_evaluation(tmp_path / "evaluation", make_evaluation(weights="pretrained")))
        out = run("recommend", other, "--max-psnr-loss-db", "0.1", records=self.SMALL)[1]
        assert "is not used here: its weights are others (pretrained, " in out and "this clip alone" in out

    def test_what_is_not_known_is_refused(self, run):
        code, out, _ = run("recommend", "--max-psnr-loss-db", "0.1", records=[make_record(truth_db=24.0)])
        assert code == 1
        assert "its weights were not learned, so that the truth says nothing of them (--max-psnr-loss-db 0.1)" in out
        unknown = [make_record(weights="small", truth_db=None)]
        out = run("recommend", "--max-psnr-loss-db", "0.1", records=unknown)[1]
        assert "what it loses to the truth is not known (--max-psnr-loss-db 0.1)" in out

    def test_without_the_bound_nothing_is_said_of_it(self, run, tmp_path):
        folder = str(write_evaluation(tmp_path / "evaluation"))
        assert "loses" not in run("recommend", folder, records=self.SMALL)[1]

    def test_from_an_evaluation_alone(self, tmp_path, capsys):
        folder = str(write_evaluation(tmp_path))
        assert main(["recommend", folder, "--max-psnr-loss-db", "0.1"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("synthetic, 20 videos, 320 frames of 432x240; AMD EPYC, torch 2.15.0; small weights\n")
        assert "The fastest of 3 measured within the bounds:\n  precision=amp\n    1.32x (1.25 to 1.39)" in out
        assert "    python run.py precision=amp" in out
        assert main(["recommend", folder, "--max-psnr-loss-db", "0.01", "--max-latency-s", "5"]) == 1
        assert "it has no sound time (--max-latency-s 5)" in capsys.readouterr().out

    def test_no_recommendation_of_a_doubtful_speed_or_of_what_failed(self, tmp_path, capsys):
        variants = [
            make_variant(precision="amp", difference_db=0.1, half_width_db=0.01, speedup=2.0, failed=1),
            make_variant(attention="sdpa", difference_db=0.0, half_width_db=0.01, speedup=1.5),
        ]
        document = make_evaluation(*variants) | {"disturbed": ["load 3.0"]}
        assert main(["recommend", str(write_evaluation(tmp_path, document))]) == 0
        out = capsys.readouterr().out
        assert "The fastest of 2 measured and sound:\n  published\n" in out
        assert "No recommendation rests on a doubtful speed: the evaluation was disturbed while it was timed" in out
