"""The sections of a record, typed. analysis/records/record.schema.json has the meaning of each key.

Only sections with `total=False` may lack keys.
"""

from typing import Any, TypedDict

Interval = list[float]
"""Lower and upper end of a 95% interval."""

LATENCY, THROUGHPUT = SCENARIOS = ("latency", "throughput")
"""What `measure.scenario` can be: runs of one clip in memory, or many clips with their reading and writing."""

Variant = dict[str, Any]
"""Which variant a run is: `id`, by config group the name of its option, `options` (group -> settings)."""


class Run(TypedDict, total=False):
    """Which run this is."""

    id: str
    command: str
    task: str
    repeat: int
    measure: dict[str, Any]
    limits: dict[str, float | None]
    started: str
    isolated: bool
    pid: int
    wall_s: float
    resumed_from: list[int]


class Data(TypedDict):
    """The clip."""

    name: str
    frames: int
    height: int
    width: int
    hole_fraction: float
    fingerprint: str | None
    truth: bool
    mask_storage: str | None
    mask_threshold: int | None


class Colors(TypedDict):
    """How colours are stored, by ffprobe's names."""

    matrix: str | None
    range: str | None
    primaries: str | None
    transfer: str | None


class VideoRead(TypedDict):
    """The header of the video that the clip comes from."""

    file: str | None
    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    fps: float
    duration_s: float | None
    variable_rate: bool
    sample_aspect_ratio: str
    rotation: int
    color: Colors
    hdr: str | None
    interlaced: bool | None
    damage: str | None
    streams: list[str]


class VideoWritten(TypedDict):
    """`inpainted.mp4`."""

    file: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    padded_right: int
    padded_bottom: int
    fps: float
    duration_s: float
    frames: int
    sample_aspect_ratio: str
    color: Colors
    audio: list[str]
    subtitles: list[str]
    chapters: int
    dropped: list[str]
    outside: str


class Video(TypedDict):
    """What was read and what was written."""

    input: VideoRead | None
    output: VideoWritten


class WeightsUsed(TypedDict, total=False):
    """Where the weights came from."""

    source: str
    architecture: str
    fingerprint: str
    reason: str


class Latency(TypedDict, total=False):
    """Seconds from frames in host memory to result frames in host memory."""

    median_s: float | None
    ci95_s: Interval | None
    relative_ci: float | None
    samples_s: list[float]
    outliers: int
    stopped_by: str | None
    warmup_s: list[float]
    first_s: float | None
    first_frames_per_s: float | None
    where_s: dict[str, float | None] | None
    compile_s: float | None
    export_s: float | None
    build_s: float | None
    frames_per_s: float | None
    harness_s: float | None
    stage_gap: float | None
    end_to_end_s: float | None


class Estimate(TypedDict):
    """What the run was expected to take before it began."""

    disk_bytes: int
    most_disk_bytes: int
    host_bytes: int
    device_bytes: int | None
    seconds: float | None


class Speedup(TypedDict):
    """Pairs of runs with a baseline."""

    baseline: str
    baseline_variant: Variant
    pairs: int
    median: float
    ci95: Interval | None
    stopped_by: str
    baseline_samples_s: list[float]
    variant_samples_s: list[float]
    stages: dict[str, dict[str, Any]]


class OverlapGain(TypedDict):
    """By what factor overlapping reading and writing is faster."""

    median: float
    ci95: Interval | None
    limit: float


class Throughput(TypedDict):
    """Many clips one after the other."""

    clips: int
    blocks: list[int]
    frames_per_s: float
    ci95_frames_per_s: Interval | None
    wall_s: float
    clip_median_s: float
    clip_p90_s: float
    clip_p99_s: float
    clip_samples_s: list[float]
    completion_samples_s: list[float]
    waited_for_read_s: float
    waited_for_write_s: float
    sequential_frames_per_s: float
    sequential_samples_s: list[float]
    read_median_s: float
    compute_median_s: float
    write_median_s: float
    overlap_gain: OverlapGain


class MemoryUse(TypedDict):
    """Bytes, in the first run, with the pool of CUDA graphs that later runs recorded."""

    kind: str
    peak_bytes: int
    reserved_bytes: int | None
    process_bytes: int | None
    graph_pool_bytes: int
    host_peak_bytes: int
    limit_bytes: int | None


class Stage(TypedDict):
    """One stage of the pipeline; nulls for one that did not run."""

    median_s: float | None
    ci95_s: Interval | None
    first_s: float | None
    peak_bytes: int | None
    reserved_bytes: int | None
    flops: dict[str, int] | None
    fraction_of_peak: float | None
    saturated_fraction: float | None


class Energy(TypedDict):
    """What the device drew."""

    joules_per_run: float | None


class Cost(TypedDict):
    """The sections on a run's cost."""

    latency: Latency
    speedup: Speedup | None
    memory: MemoryUse
    stages: dict[str, Stage]
    energy: Energy
    effective: dict[str, Any]
    disturbed: list[str]
    machine: dict[str, Any]
    artifacts: dict[str, Any]


class ReferenceUsed(TypedDict):
    """The fp32 reference that the output was compared with."""

    key: str
    cached: bool
    memory_saving: bool
