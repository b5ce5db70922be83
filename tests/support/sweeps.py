"""Sweeps that several tests of the analysis read."""

from support.records_fixture import MIB, make_record, make_schema_1

SDPA = dict(attention="sdpa", seconds=6.0, psnr_hole_db=85.0)

SWEEP = [
    make_record(seconds=8.0, peak_bytes=1000 * MIB),
    make_record(attention="sdpa", seconds=6.0, peak_bytes=900 * MIB, psnr_hole_db=85.0),
    make_record(precision="amp", seconds=4.0, peak_bytes=700 * MIB, psnr_hole_db=38.0, disturbed=["load 3.0"]),
    make_record(chunking="fixed", seconds=9.0, peak_bytes=300 * MIB, psnr_hole_db=45.0),
    make_record(attention="sdpa_cudnn", status="unsupported", reason="needs CUDA | and more"),
]


RECORDS = [
    make_record(),
    make_record(attention="sdpa", seconds=6.0, paired=1.3),
    make_record(attention="sdpa_cudnn", status="unsupported"),
    make_schema_1(precision="amp"),
]
"""Published, paired, unsupported, and of schema 1."""


def one_by_one():
    """Return three techniques added one by one, and another one."""
    return [
        make_record(seconds=8.0, noise=0.01),
        make_record(attention="sdpa", seconds=6.0, noise=0.01),
        make_record(attention="sdpa", precision="amp", seconds=4.0, psnr_hole_db=48.0, noise=0.01),
        make_record(attention="sdpa", precision="amp", compile="default", seconds=5.0, psnr_hole_db=47.0, noise=0.01),
        make_record(residency="lean", seconds=8.1, peak_bytes=200 * MIB, psnr_hole_db=None, noise=0.01),
    ]


def usual() -> list[dict]:
    return [
        make_record(seconds=8.0),
        make_record(attention="sdpa", seconds=6.0, paired=1.33),
        make_record(precision="amp", seconds=5.0, paired=1.6, psnr_hole_db=38.0, disturbed=["another process ran"]),
        make_record(residency="lean", seconds=9.0, paired=0.9, peak_bytes=200 * MIB, psnr_hole_db=None),
        make_record(precision="half", status="unsupported", reason="no <half> & such on this cpu"),
        make_record(compile="default", status="failed", reason="SomeError: broken"),
    ]
