"""Many clips through the reader, the pipeline and the video writer, by the command line."""

import pytest
from jsonschema import validate

from analysis.records.schema import schema, validation_error

TINY = ["data.num_frames=3", "data.height=128", "data.width=128", "weights=small", "schedule.raft_iterations=1"]


@pytest.mark.slow
def test_many_clips(bench):
    done = bench(*TINY, "measure.scenario=throughput", "measure.clips=3", "output.frames=true")
    assert done.code == 0, done.err
    record = done.record
    validate(record, schema())
    assert validation_error(record) is None
    throughput = record["throughput"]
    for samples in ("clip_samples_s", "completion_samples_s", "sequential_samples_s"):
        assert len(throughput[samples]) == throughput["clips"] == 3
    assert throughput["frames_per_s"] == pytest.approx(3 * 3 / throughput["wall_s"])
    low, high = throughput["ci95_frames_per_s"]
    assert 0 < low < throughput["frames_per_s"] < high
    assert 0 < throughput["overlap_gain"]["median"] < 3.5
    assert throughput["read_median_s"] > 0 and throughput["write_median_s"] > 0
    latency = record["latency"]
    assert (latency["median_s"], latency["samples_s"], len(latency["warmup_s"])) == (None, [], 1)
    assert record["quality"]["identical"] is True
    assert record["machine"]["flops_reason"].startswith("left out by measure.scenario=throughput")
    assert "throughput: " in done.out and "overlapping reading and writing gains" in done.out
    assert "7 clips one after the other, about" in done.err
    names = {path.name for path in done.folder.iterdir()}
    assert {"inpainted.mp4", "frames", "preview.png", "record.json"} <= names
    assert "throughput" not in names
