"""The rows of a report: chains, fronts, the notable ones."""

from support.records_fixture import make_record
from support.sweeps import one_by_one

from analysis.results.rows import chain, notable, pareto_front

MIB = 2**20


class TestChain:
    def test_each_step_keeps_what_was_changed_and_adds_one(self, rows):
        steps = chain(rows(*one_by_one()))
        assert [row.name for row in steps] == [
            "published",
            "attention=sdpa",
            "attention=sdpa,precision=amp",
            "attention=sdpa,precision=amp,compile=default",
        ]

    def test_of_equal_chains_the_faster_and_of_longer_the_longer(self, rows):
        two = chain(
            rows(make_record(), make_record(attention="sdpa", seconds=5.0), make_record(precision="amp", seconds=4.0))
        )
        assert [row.name for row in two] == ["published", "precision=amp"]

    def test_without_a_single_step_a_larger_one_is_taken(self, rows):
        steps = chain(rows(make_record(), make_record(attention="sdpa", precision="amp")))
        assert steps[1].added_to(steps[0]) == ["attention=sdpa", "precision=amp"]

    def test_variants_that_have_nothing_in_common_make_no_chain(self, rows):
        assert len(chain(rows(make_record(attention="sdpa"), make_record(precision="amp")))) == 1
        assert chain([]) == []

    def test_settings_of_an_option_tell_steps_apart(self, rows):
        sized = [make_record(chunking="fixed", options={"chunking": {"size": size}}, seconds=size) for size in (4, 8)]
        found = rows(make_record(seconds=10), *sized)
        assert [row.changes for row in found[1:]] == [
            {"chunking": "chunking=fixed (size=4)"},
            {"chunking": "chunking=fixed (size=8)"},
        ]
        assert len(chain(found)) == 2


def test_the_front_has_what_nothing_beats_in_both(rows):
    found = rows(
        make_record(seconds=8, peak_bytes=100 * MIB),
        make_record(attention="sdpa", seconds=4, peak_bytes=300 * MIB),
        make_record(precision="amp", seconds=5, peak_bytes=200 * MIB),
        make_record(compile="default", seconds=6, peak_bytes=250 * MIB),
    )
    assert [row.name for row in pareto_front(found)] == ["published", "precision=amp", "attention=sdpa"]


def test_the_notable_ones_are_kept_in_their_order(rows):
    found = rows(
        *(make_record(chunking="fixed", options={"chunking": {"size": n}}, seconds=20 + n) for n in range(20)),
        make_record(attention="sdpa", seconds=2, peak_bytes=900 * MIB),
        make_record(residency="lean", seconds=9, peak_bytes=100 * MIB),
        make_record(precision="amp", seconds=9, psnr_hole_db=12.0),
        make_record(seconds=50),
    )
    assert [row.name for row in notable(found, 4)] == ["attention=sdpa", "residency=lean", "precision=amp", "published"]
