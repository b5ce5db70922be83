"""Records pooled to one row a variant, and the speedup over the published one."""

import math

import pytest
from support.records_fixture import MIB, make_record, make_schema_1, write_sweep

from analysis import load, variants_table
from analysis.results.intervals import log_t_interval


class TestPooling:
    def test_one_process_keeps_its_own_interval(self, pooled):
        row = pooled(make_record(seconds=8.0, noise=0.05))["published"]
        assert row["latency.median_s"] == 8.0
        assert row["latency.ci95_s"] == [8.0 * 0.95, 8.0 * 1.05]
        assert row["processes"] == row["records"] == 1

    def test_processes_are_pooled_by_their_spread(self, pooled):
        seconds = [8.0, 9.0, 8.4]
        records = [
            make_record(seconds=s, repeat=i, peak_bytes=(300 + i) * MIB, noise=0.001) for i, s in enumerate(seconds)
        ]
        row = pooled(*records)["published"]
        assert row["latency.median_s"] == 8.4
        assert row["latency.ci95_s"] == pytest.approx(log_t_interval(seconds))
        assert row["memory.peak_bytes"] == 302 * MIB
        assert row["memory.peak_range_bytes"] == [300 * MIB, 302 * MIB]
        assert row["processes"] == 3
        assert row["stages.flow.ci95_s"] == pytest.approx(log_t_interval([0.42 * s for s in seconds]))

    def test_the_worst_stands_for_all(self, pooled):
        row = pooled(
            make_record(attention="sdpa", psnr_hole_db=85.0),
            make_record(attention="sdpa", psnr_hole_db=70.0, repeat=1, disturbed=["load 3.1"]),
            make_record(attention="sdpa", status="failed", reason="killed", repeat=2),
        )["attention=sdpa"]
        assert row["quality.psnr_hole_db"] == 70.0
        assert row["path"].endswith("1/record.json")
        assert (row["status"], row["reason"]) == ("failed", "killed")
        assert (row["processes"], row["records"]) == (2, 3)
        assert row["disturbed"] == [], "the undisturbed one gives the times"

    def test_times_are_of_undisturbed_processes_where_there_are_any(self, pooled):
        slow = make_record(attention="sdpa", seconds=90.0, disturbed=["load 3.1"], peak_bytes=400 * MIB)
        row = pooled(slow, make_record(attention="sdpa", seconds=6.0, repeat=1))["attention=sdpa"]
        assert row["latency.median_s"] == 6.0
        assert row["latency.ci95_s"] == [6.0 * 0.97, 6.0 * 1.03]
        assert row["memory.peak_bytes"] == 400 * MIB, "busy processes do not change memory"
        assert "doubt.latency" not in row

    def test_the_range_of_memory_is_of_processes_that_did_not_swap(self, pooled):
        swapped = make_record(peak_bytes=100 * MIB, disturbed=["the system swapped: 90 MiB more in swap"])
        quiet = [make_record(peak_bytes=peak * MIB, repeat=peak) for peak in (300, 310)]
        assert pooled(swapped, *quiet)["published"]["memory.peak_range_bytes"] == [300 * MIB, 310 * MIB]

    def test_disturbed_times_stay_where_there_are_no_others(self, pooled):
        row = pooled(make_record(attention="sdpa", seconds=90.0, disturbed=["load 3.1"]))["attention=sdpa"]
        assert (row["latency.median_s"], row["disturbed"]) == (90.0, ["load 3.1"])

    def test_other_data_weights_devices_and_limits_are_other_rows(self, tmp_path):
        records = [
            make_record(),
            make_record(frames=7),
            make_record(weights="pretrained"),
            make_record(torch="2.16.0"),
            make_record(run__limits={"vram_gb": 8, "host_gb": None}),
            make_record(run__task="drift"),
        ]
        assert len(variants_table(load(write_sweep(tmp_path, records, parquet=False)))) == 5

    def test_namesakes_are_told_apart_by_their_settings(self, pooled):
        rows = pooled(
            *(make_record(chunking="fixed", options={"chunking": {"size": size, "overlap": 2}}) for size in (5, 10)),
            make_record(),
            make_record(run__limits={"vram_gb": 8, "host_gb": None}),
        )
        assert set(rows) == {
            "chunking=fixed (chunking.size=5)",
            "chunking=fixed (chunking.size=10)",
            "published",
            "published (limits.vram_gb=8)",
        }

    def test_schema_1(self, pooled):
        rows = pooled(make_schema_1(), make_schema_1(attention="sdpa", seconds=4.0))
        assert rows["attention=sdpa"]["speedup.median"] == 2.0
        assert "speedup.ci95" not in rows["attention=sdpa"]
        assert rows["published"]["place"] == "AMD EPYC, torch 2.15.0"


class TestSpeedup:
    def test_paired_where_the_record_has_it(self, pooled):
        rows = pooled(make_record(seconds=8.0), make_record(attention="sdpa", seconds=4.0, paired=1.5))
        row = rows["attention=sdpa"]
        assert (row["speedup.kind"], row["speedup.median"]) == ("paired", 1.5)
        assert row["speedup.ci95"] == [1.5 * 0.97, 1.5 * 1.03]
        assert row["speedup.baseline"] == rows["published"]["variant.id"]
        assert row["speedup.stages.flow.median"] == 1.5
        assert "speedup.median" not in rows["published"]

    def test_paired_ones_are_pooled(self, pooled):
        records = [make_record(attention="sdpa", paired=p, repeat=i) for i, p in enumerate((1.4, 1.5, 1.6))]
        row = pooled(*records)["attention=sdpa"]
        assert row["speedup.median"] == 1.5
        assert row["speedup.ci95"] == pytest.approx(log_t_interval([1.4, 1.5, 1.6]))

    def test_unpaired_else(self, pooled):
        row = pooled(make_record(seconds=8.0), make_record(attention="sdpa", seconds=4.0))["attention=sdpa"]
        assert (row["speedup.kind"], row["speedup.median"]) == ("unpaired", 2.0)
        low, high = row["speedup.ci95"]
        assert low < 2.0 < high
        assert math.log(high / low) / 2 == pytest.approx(math.sqrt(2) * math.log(1.03 / 0.97) / 2)
        assert row["speedup.stages.generation.median"] == 2.0

    def test_a_record_from_before_architectures_is_of_published_widths(self, pooled):
        old = make_record(seconds=8.0)
        del old["weights"]["architecture"]
        assert pooled(old, make_record(attention="sdpa", seconds=4.0))["attention=sdpa"]["speedup.median"] == 2.0
        assert pooled(old, make_record(seconds=9.0, repeat=1))["published"]["processes"] == 2

    @pytest.mark.parametrize(
        "other",
        [
            {"torch": "2.16.0"},
            {"frames": 7},
            {"weights": "pretrained"},
            {"architecture": "small"},
            {"architecture": "small", "weights__fingerprint": make_record()["weights"]["fingerprint"]},
            {"options": {"schedule": {"raft_iterations": 2}}},
            {"status": "failed"},
        ],
    )
    def test_none_against_what_cannot_be_compared(self, pooled, other):
        rows = pooled(make_record(**other), make_record(attention="sdpa", seconds=4.0))
        assert "speedup.median" not in rows["attention=sdpa"]
