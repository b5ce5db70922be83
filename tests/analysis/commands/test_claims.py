"""The promises of docs/plan.md: one case for each verdict, and every claim of the file."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from support.command_line import ROOT
from support.evaluation_fixture import make_evaluation, make_variant, write_evaluation
from support.records_fixture import make_micro, make_record, write_sweep

from analysis import load, load_micro
from analysis.__main__ import main
from analysis.commands.claims import VERDICTS, combine, entries, evaluate, read_claims, runs, to_markdown
from analysis.records.load import load_evaluations

GIB = 2**30
CONFIRMED, PARTLY, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED = VERDICTS
IDS = (
    "sdpa_speed sdpa_memory compile_speed compile_memory amp_speed amp_memory amp_stable chunk_short chunk_long "
    "chunk_any combined_speed combined_memory raft_scale_memory raft_scale_quality raft_scale_4k resample_speed "
    "partition_speed summary_speed summary_memory log_example checkpointing amp_training int8_speed int8_quality "
    "tensorrt_speed published_memory"
)
ALL = dict(attention="sdpa", precision="amp", compile="default", chunking="fixed")
CUDA = dict(device="H100", device_type="cuda")


def make_training() -> dict:
    """A train_benchmark.json: checkpointing halves the memory at 0.8 times the speed, bf16 is 1.25 times as fast."""
    rows = []
    for checkpointing, precision, update_s, peak in (
        *(("none", "fp32", 1.0, 100), ("blocks", "fp32", 1.1, 90), ("all", "fp32", 1.25, 50)),
        *(("none", "bf16", 0.8, 95), ("blocks", "bf16", 0.9, 80), ("all", "bf16", 1.0, 45)),
    ):
        row = {"checkpointing": checkpointing, "precision": precision, "attention": "manual", "status": "ok"}
        row |= {"reason": None, "update_s": update_s, "update_s_ci95": None, "peak_bytes": peak, "ratio": None}
        if len(rows):
            row["ratio"] = {"median": update_s, "ci95": [update_s - 0.05, update_s + 0.05]}
        rows.append(row)
    recipe = {"network": "generator", "architecture": "published", "batch": 1, "frames": [6], "references": 2}
    recipe |= {"height": 64, "width": 96}
    environment = {"device": "a card", "device_type": "cuda", "torch": "2.15.0"}
    return {"kind": "train_benchmark", "environment": environment, "recipe": recipe, "rows": rows, "memory": "vram"}


@pytest.fixture
def verdict(tmp_path):
    """verdict(claim, *records, micro=rows) is what `evaluate` says of one claim."""

    def of(claim, *records, micro=None):
        write_sweep(tmp_path, records, parquet=False)
        if micro:
            (tmp_path / "micro.json").write_text(json.dumps(make_micro(micro)))
        found = evaluate(load(tmp_path), load_micro(tmp_path))
        return next(one for one in found if one["id"] == claim)

    return of


def test_every_claim_of_the_plan_is_there():
    assert sorted(claim["id"] for claim in read_claims()) == sorted(IDS.split())


class TestVerdicts:
    @pytest.mark.parametrize(
        ("paired", "noise", "expected"),
        [
            (1.7, 0.03, CONFIRMED),
            (2.5, 0.03, CONFIRMED),
            (1.3, 0.03, PARTLY),
            (1.0, 0.03, CONTRADICTED),
            (0.7, 0.03, CONTRADICTED),
            (1.5, 0.03, INCONCLUSIVE),
            (1.3, 0.5, INCONCLUSIVE),
        ],
    )
    def test_a_speedup_by_its_interval(self, verdict, paired, noise, expected):
        found = verdict("amp_speed", make_record(), make_record(precision="amp", paired=paired, noise=noise))
        assert found["verdict"] == expected
        assert found["measured"][0]["value"] == paired
        assert ("better than promised" in found["remark"]) == (paired == 2.5)

    @pytest.mark.parametrize(
        ("share", "expected"),
        [(0.60, CONFIRMED), (0.80, PARTLY), (1.2, CONTRADICTED), (1.0, CONTRADICTED), (0.70, INCONCLUSIVE)],
    )
    def test_a_saving_of_resident_memory_by_its_uncertainty(self, verdict, share, expected):
        peaks = 4 * GIB, int(4 * GIB * share)
        records = make_record(peak_bytes=peaks[0]), make_record(precision="amp", peak_bytes=peaks[1])
        assert verdict("amp_memory", *records)["verdict"] == expected

    def test_a_saving_of_vram_is_exact(self, verdict):
        records = make_record(peak_bytes=GIB, **CUDA), make_record(precision="amp", peak_bytes=int(0.699 * GIB), **CUDA)
        assert verdict("amp_memory", *records)["verdict"] == CONFIRMED

    def test_not_measured_comes_with_its_commands(self, verdict):
        found = verdict("amp_speed", make_record())
        assert found["verdict"] == NOT_MEASURED
        assert "python run.py precision=amp measure.baseline=published" in found["commands"]

    def test_a_variant_with_something_else_is_not_the_one(self, verdict):
        records = make_record(), make_record(precision="amp", attention="sdpa", paired=1.7)
        assert verdict("amp_speed", *records)["verdict"] == NOT_MEASURED

    def test_a_single_sample_is_inconclusive(self, verdict):
        records = make_record(latency__ci95_s=None), make_record(precision="amp", seconds=1.0, latency__ci95_s=None)
        found = verdict("amp_speed", *records)
        assert found["verdict"] == INCONCLUSIVE
        assert "no interval" in found["measured"][0]["text"]

    def test_unpaired_and_disturbed_are_said(self, verdict):
        records = make_record(disturbed=["load 3.0"]), make_record(precision="amp", seconds=4.0)
        found = verdict("amp_speed", *records)
        assert found["measured"][0]["kind"] == "unpaired"
        assert "disturbed" in found["remark"]

    @pytest.mark.parametrize("which", [0, 1])
    def test_no_verdict_on_a_disturbed_time(self, verdict, which):
        records = make_record(), make_record(precision="amp", seconds=1.0)
        assert verdict("amp_speed", *records)["verdict"] == CONFIRMED
        records[which]["disturbed"] = ["load 3.0"]
        found = verdict("amp_speed", *records)
        assert found["verdict"] == INCONCLUSIVE
        assert "better than promised" not in found["remark"]
        name = ("published", "precision=amp")[which]
        assert f"Not judged, since {name} was disturbed while it was timed (load 3.0). To measure it" in found["remark"]

    def test_each_clip_has_its_command(self, verdict):
        records = [make_record(frames=n, precision="amp", paired=1.7, disturbed=["load 3.0"]) for n in (6, 7)]
        remark = verdict("amp_speed", *records)["remark"]
        for count in (6, 7):
            assert f"(load 3.0), on sample, {count} frames of 160x128. To measure it again" in remark
            assert f"python run.py precision=amp data.num_frames={count} " in remark

    def test_the_table_shows_no_doubtful_figure(self, verdict, tmp_path):
        verdict("amp_speed", make_record(disturbed=["load 3.0"]), make_record(precision="amp", seconds=1.0))
        (line,) = [
            line for line in to_markdown(evaluate(load(tmp_path))).splitlines() if line.startswith("| amp_speed")
        ]
        assert line.endswith("| inconclusive | doubtful, see below |")

    def test_memory_is_judged_beside_busy_processes(self, verdict):
        records = [
            make_record(peak_bytes=p * GIB, disturbed=["load 3.0"], **v)
            for p, v in ((8, {}), (4, {"precision": "amp"}))
        ]
        assert verdict("amp_memory", *records)["verdict"] == CONFIRMED

    def test_two_devices_that_disagree(self, verdict):
        records = [make_record(precision="amp", paired=1.7, **CUDA), make_record(precision="amp", paired=0.5)]
        assert verdict("amp_speed", *records)["verdict"] == PARTLY

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [
            ([], NOT_MEASURED),
            ([None, NOT_MEASURED], NOT_MEASURED),
            ([CONFIRMED, CONFIRMED], CONFIRMED),
            ([CONFIRMED, NOT_MEASURED], PARTLY),
            ([CONTRADICTED, NOT_MEASURED], CONTRADICTED),
            ([CONFIRMED, INCONCLUSIVE], INCONCLUSIVE),
            ([CONFIRMED, CONTRADICTED], PARTLY),
            ([PARTLY, INCONCLUSIVE], PARTLY),
        ],
    )
    def test_of_several_parts(self, verdicts, expected):
        assert combine(verdicts) == expected


class TestClaims:
    def test_attention_is_measured_alone(self, verdict):
        micro = [
            {"option": "manual"},
            {"option": "sdpa", "ratio": {"median": 0.4, "ci95": [0.38, 0.42]}, "peak_bytes": 40 * 2**20},
        ]
        records = make_record(), make_record(attention="sdpa", paired=1.1)
        found = verdict("sdpa_speed", *records, micro=micro)
        assert found["verdict"] == CONFIRMED
        assert found["measured"][0]["interval"] == pytest.approx([1 / 0.42, 1 / 0.38])
        assert [one["verdict"] for one in found["measured"]] == [CONFIRMED, None]

    def test_a_disturbed_micro_judges_no_time(self, tmp_path):
        rows = [{"option": "manual"}, {"option": "sdpa", "ratio": {"median": 0.4, "ci95": [0.38, 0.42]}}]
        content = make_micro(rows) | {"disturbed": ["other processes kept 1.5 cores busy"]}
        (tmp_path / "micro.json").write_text(json.dumps(content))
        write_sweep(tmp_path, [make_record()], parquet=False)
        found = evaluate(load(tmp_path), load_micro(tmp_path))
        claim = next(one for one in found if one["id"] == "sdpa_speed")
        assert claim["verdict"] == INCONCLUSIVE
        assert "sdpa was disturbed while it was timed (other processes kept 1.5 cores busy)" in claim["remark"]

    def test_the_whole_run_alone_says_nothing_of_attention(self, verdict):
        found = verdict("sdpa_memory", make_record(), make_record(attention="sdpa", paired=1.1))
        assert found["verdict"] == NOT_MEASURED
        assert "python run.py experiment=micro" in found["commands"]

    def test_einops_is_the_first_of_its_group(self, verdict):
        micro = [
            {"group": "partition", "option": "einops"},
            {"group": "partition", "option": "view_permute", "ratio": {"median": 0.8, "ci95": [0.79, 0.81]}},
        ]
        found = verdict("partition_speed", micro=micro)
        assert (found["verdict"], found["measured"][0]["value"]) == (CONTRADICTED, 0.8)

    @pytest.mark.parametrize(
        ("amp", "half", "expected"),
        [
            ("ok", "non_finite", CONFIRMED),
            ("ok", "ok", PARTLY),
            ("non_finite", "non_finite", CONTRADICTED),
            ("ok", "unsupported", NOT_MEASURED),
        ],
    )
    def test_amp_stable(self, verdict, amp, half, expected):
        records = make_record(precision="amp", status=amp, **CUDA), make_record(precision="half", status=half, **CUDA)
        assert verdict("amp_stable", *records)["verdict"] == expected

    def test_amp_stable_is_of_fp16(self, verdict):
        records = make_record(precision="amp"), make_record(precision="half", status="failed")
        assert verdict("amp_stable", *records)["verdict"] == NOT_MEASURED

    def test_chunking_by_the_clips_length(self, verdict):
        records = [
            record
            for frames, share in ((10, 0.65), (100, 0.3))
            for record in (
                make_record(frames=frames, peak_bytes=GIB, **CUDA),
                make_record(frames=frames, peak_bytes=int(share * GIB), chunking="fixed", **CUDA),
            )
        ]
        assert verdict("chunk_short", *records)["verdict"] == CONFIRMED
        assert verdict("chunk_long", *records)["measured"][0]["value"] == pytest.approx(0.7)

    def test_a_clip_that_only_chunks_can_hold(self, verdict):
        found = verdict(
            "chunk_any",
            make_record(frames=500, status="out_of_memory"),
            make_record(frames=500, chunking="fixed"),
            make_record(),
            make_record(chunking="fixed", paired=0.9),
        )
        assert [one["verdict"] for one in found["measured"]] == [CONFIRMED, CONTRADICTED]
        assert found["verdict"] == PARTLY

    def test_all_together(self, verdict, tmp_path):
        verdict(
            "combined_speed",
            make_record(peak_bytes=GIB, **CUDA),
            make_record(paired=3.5, peak_bytes=GIB // 4, **ALL, **CUDA),
        )
        found = {one["id"]: one["verdict"] for one in evaluate(load(tmp_path))}
        claims = ("combined_speed", "combined_memory", "summary_speed", "summary_memory")
        assert [found[claim] for claim in claims] == [CONFIRMED] * 4

    def test_flow_at_half_size(self, verdict):
        sizes = dict(height=864, width=1536)
        found = verdict(
            "raft_scale_memory",
            make_record(stages__flow__peak_bytes=15 * GIB, **sizes, **CUDA),
            make_record(raft_scale="half", stages__flow__peak_bytes=int(3.75 * GIB), **sizes, **CUDA),
        )
        assert [one["verdict"] for one in found["measured"]] == [CONFIRMED] * 3
        assert found["verdict"] == PARTLY
        assert "Not measured: flow's peak at 432x768" in found["remark"]

    def test_quality_is_not_measured_with_seeded_weights(self, verdict):
        of = dict(raft_scale="half", height=256, width=256, psnr_hole_db=35.0)
        found = verdict("raft_scale_quality", make_record(**of))
        assert found["verdict"] == NOT_MEASURED
        assert "numerical agreement" in found["remark"]

    def test_quality_with_learned_weights(self, verdict):
        of = dict(raft_scale="half", height=256, width=256, psnr_hole_db=35.0, weights="pretrained")
        assert verdict("raft_scale_quality", make_record(**of))["verdict"] == CONFIRMED

    def test_quality_with_small_weights_names_them(self, verdict):
        of = dict(raft_scale="half", height=256, width=256, psnr_hole_db=35.0, weights="small")
        found = verdict("raft_scale_quality", make_record(**of))
        assert found["verdict"] == CONFIRMED
        assert found["measured"][0]["data"].endswith(", small weights")

    @pytest.mark.parametrize("source", ["small", "seeded"])
    def test_time_and_memory_of_small_networks_judge_nothing(self, verdict, source):
        of = dict(weights=source, architecture="small")
        records = [make_record(**of), make_record(**of, compile="default", paired=1.3, seconds=6, peak_bytes=10**8)]
        for claim in ("compile_speed", "compile_memory"):
            found = verdict(claim, *records)
            assert found["verdict"] == NOT_MEASURED
            assert "small networks are left out" in found["remark"]

    @pytest.mark.parametrize(("peak", "status", "expected"), [(12, "ok", CONFIRMED), (14, "ok", CONTRADICTED),
                                                              (0, "out_of_memory", CONTRADICTED)])  # fmt: skip
    def test_4k(self, verdict, peak, status, expected):
        record = make_record(
            raft_scale="auto", chunking="fixed", height=2160, width=3840, peak_bytes=peak * GIB, status=status, **CUDA
        )
        assert verdict("raft_scale_4k", record)["verdict"] == expected

    def test_the_log_is_held_to_the_fastest(self, verdict):
        sizes = dict(frames=75, height=864, width=1536)
        found = verdict(
            "log_example", make_record(seconds=9.0, **sizes, **CUDA), make_record(seconds=1.5, **ALL, **sizes, **CUDA)
        )
        assert [one["value"] for one in found["measured"]] == [1.5, pytest.approx(0.63)]
        assert found["verdict"] == CONFIRMED

    def test_the_authors_table(self, verdict):
        sizes = dict(height=720, width=1280)
        limits = {"vram_gb": 32, "host_gb": None}
        found = verdict(
            "published_memory",
            make_record(frames=50, peak_bytes=26 * GIB, **sizes, **CUDA),
            make_record(frames=50, peak_bytes=10 * GIB, precision="half", **sizes, **CUDA),
            make_record(frames=80, status="out_of_memory", run__limits=limits, **sizes, **CUDA),
        )
        assert [one["verdict"] for one in found["measured"]] == [CONFIRMED, CONTRADICTED, CONFIRMED]
        assert found["measured"][2]["text"] == "out of memory within 32 GiB"
        assert found["verdict"] == PARTLY

    def test_training_is_judged_by_its_benchmark(self, tmp_path):
        (tmp_path / "train_benchmark.json").write_text(json.dumps(make_training()))
        found = {one["id"]: one for one in evaluate(load(tmp_path), load_micro(tmp_path))}
        checkpointing, amp = found["checkpointing"], found["amp_training"]
        assert [one["text"] for one in checkpointing["measured"][:2]] == ["50%", "0.80x (0.77 to 0.83)"]
        assert [one["verdict"] for one in checkpointing["measured"]] == [CONFIRMED, CONTRADICTED, None, None]
        assert checkpointing["verdict"] == PARTLY
        assert "generator (published), 1 x 6+2 frames of 96x64" in checkpointing["measured"][0]["data"]
        assert [one["verdict"] for one in amp["measured"]] == [PARTLY, PARTLY]
        assert amp["commands"]

    def test_a_resident_set_is_known_roughly(self, tmp_path):
        (tmp_path / "train_benchmark.json").write_text(json.dumps(make_training() | {"memory": "rss"}))
        found = {one["id"]: one for one in evaluate(load(tmp_path), load_micro(tmp_path))}
        low, high = found["checkpointing"]["measured"][0]["interval"]
        assert low < 0.48 and high > 0.52

    def test_markdown_has_every_claim(self, verdict, tmp_path):
        verdict("amp_speed", make_record(), make_record(precision="amp", paired=1.7))
        text = to_markdown(evaluate(load(tmp_path)))
        assert all(f"| {claim} |" in text for claim in IDS.split())
        assert "1.70x (1.65 to 1.75)" in text
        assert text.splitlines()[0].startswith("1 confirmed")


class TestEvaluation:
    """Claims of quality by an evaluation of many videos."""

    CLIP = dict(raft_scale="half", height=256, width=256, psnr_hole_db=35.0, weights="small", truth_db=20.0)

    @staticmethod
    def document(difference_db, half_width_db=0.05, **changes):
        variant = make_variant(raft_scale="half", difference_db=difference_db, half_width_db=half_width_db, speedup=1.1)
        return make_evaluation(variant, **{"dataset__height": 480, "dataset__width": 864} | changes)

    @pytest.fixture
    def quality(self, tmp_path):
        """quality(document, *records) is the verdict on RAFT at half size."""

        def of(document, *records):
            write_evaluation(tmp_path / "evaluation", document)
            write_sweep(tmp_path / "sweep", records, parquet=False)
            found = evaluate(load(tmp_path), evaluations=load_evaluations(tmp_path))
            return next(one for one in found if one["id"] == "raft_scale_quality")

        return of

    @pytest.mark.parametrize(
        ("difference_db", "half_width_db", "expected"),
        [(-0.1, 0.05, CONFIRMED), (-0.9, 0.05, CONTRADICTED), (-0.45, 0.2, INCONCLUSIVE), (-0.1, None, INCONCLUSIVE)],
    )
    def test_the_whole_interval_decides(self, quality, difference_db, half_width_db, expected):
        (part,) = quality(self.document(difference_db, half_width_db))["measured"]
        assert part["verdict"] == expected and part["value"] == pytest.approx(difference_db)
        assert part["data"] == "synthetic, 20 videos, 320 frames of 864x480, small weights"

    def test_it_stands_for_single_clips(self, quality):
        found = quality(self.document(-0.1), make_record(**self.CLIP))
        assert [one["data"].split(",")[0] for one in found["measured"]] == ["sample", "synthetic"]
        assert found["verdict"] == CONFIRMED, "the one clip, which loses 4 dB, is not asked"
        assert "1 video" in found["measured"][0]["data"]

    @pytest.mark.parametrize("change", [dict(dataset__height=240), dict(weights="seeded"), dict(dataset__width=None)])
    def test_one_that_does_not_meet_the_claim_is_not_asked(self, quality, change):
        found = quality(self.document(-0.1, **change), make_record(**self.CLIP))
        assert found["measured"][1]["verdict"] == CONTRADICTED
        assert ("seeded weights are left out" in found["remark"]) == ("weights" in change)

    def test_the_command_needs_no_records(self, tmp_path, capsys):
        assert main(["claims", str(write_evaluation(tmp_path, self.document(-0.1)))]) == 0
        assert "-0.10 dB (-0.15 to -0.05), confirmed. raft_scale=half; synthetic, 20 videos" in capsys.readouterr().out


class TestRuns:
    def test_each_once_and_by_device(self):
        for device in ("cpu", "cuda"):
            listed = runs(device_type=device)
            assert len({tuple(run) for run in listed}) == len(listed) > 5
            assert all(entry["seconds"] > 0 for entry in entries(device))
            names = [entry["name"] for entry in entries(device)]
            assert len(set(names)) == len(names)
        assert len(runs()) == len(runs(device_type="cpu")) + len(runs(device_type="cuda")) - len(
            {tuple(run) for run in runs(device_type="cpu")} & {tuple(run) for run in runs(device_type="cuda")}
        )

    def test_their_overrides_are_plain(self):
        for run in runs():
            assert all("=" in override for override in run)
            assert shlex.split(shlex.join(run)) == run

    def test_every_claim_that_can_be_measured_has_some(self):
        for claim in read_claims():
            assert claim.get("unavailable") or claim["runs"]


def test_the_commands_words_are_those_of_the_config():
    """Groups, options and micro's names in claims.yaml are those of conf/."""
    known = {path.parent.name: [] for path in (ROOT / "conf").glob("*/*.yaml")}
    for path in (ROOT / "conf").glob("*/*.yaml"):
        known[path.parent.name].append(path.stem)
    for override in {override for run in runs() for override in run}:
        key, value = override.split("=", 1)
        if key in known:
            assert value in known[key], override
    wanted = [part.get(side) for claim in read_claims() for part in claim["parts"] for side in ("variant", "baseline")]
    names = []
    for one in wanted:
        names += one["has"] if isinstance(one, dict) else one if isinstance(one, list) else [one]
    for choice in {choice for name in names if name and "=" in name for choice in name.split(",")}:
        group, option = choice.split("=")
        assert option in known[group], choice


def test_claims_need_no_records_where_there_is_a_micro(tmp_path):
    (tmp_path / "micro.json").write_text(json.dumps(make_micro([{"option": "manual"}, {"option": "sdpa"}])))
    command = [sys.executable, "-m", "analysis", "claims", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "| sdpa_speed |" in done.stdout


class TestPlanDocument:
    """docs/plan.md lists the claims of claims.yaml: each id once, the same promise, the devices of its runs."""

    DEVICES = {"CPU or CUDA": {"cpu", "cuda"}, "CUDA": {"cuda"}, "none": set()}

    @pytest.fixture
    def plan(self) -> list[list[str]]:
        """The table's rows that begin with a claim id: id, promise, figure, device."""
        found = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "plan.md").read_text(), re.M)
        return [list(row) for row in found]

    def test_the_plan_lists_every_claim_once_and_no_other(self, plan):
        assert sorted(row[0] for row in plan) == sorted(claim["id"] for claim in read_claims())

    def test_promises_are_those_of_the_claims(self, plan):
        assert {row[0]: row[1] for row in plan} == {claim["id"]: claim["claim"] for claim in read_claims()}

    def test_devices_are_those_of_the_runs(self, plan):
        assert {row[0]: self.DEVICES[row[3]] for row in plan} == {
            claim["id"]: set(claim["runs"]) for claim in read_claims()
        }
