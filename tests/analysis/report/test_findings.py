"""What a report's cards say."""

from support.records_fixture import MIB, make_record
from support.sweeps import usual

from analysis.report import findings as words


class TestFindings:
    def test_fastest_smallest_best(self, rows):
        cards = {card.kind: card for card in words.findings(rows(*usual()))}
        assert cards["fastest"].row.name == "attention=sdpa", "amp was disturbed"
        assert cards["fastest"].figure == "1.33x"
        assert cards["fastest"].interval == "95% interval 1.29x to 1.37x, measured in pairs"
        assert cards["fastest"].command.startswith("python run.py attention=sdpa ")
        assert cards["smallest"].row.name == "residency=lean"
        assert cards["smallest"].sentence == "43% less memory than published (352 MiB)."
        assert ("Latency", "9.00 s, 0.90x the speed") in cards["smallest"].costs
        assert cards["best"].row.name == "attention=sdpa", "amp is under the bound"
        assert "at least 40 dB" in cards["best"].sentence

    def test_nothing_is_called_faster_that_may_be_as_fast(self, rows):
        found = rows(make_record(seconds=8.0), make_record(attention="sdpa", seconds=7.9, paired=1.01))
        fastest, _, best = words.findings(found)
        assert fastest.sentence.startswith("The interval does not leave out 1")
        assert "may be no faster" in best.sentence

    def test_those_that_intervals_do_not_tell_apart_are_named(self, rows):
        found = rows(
            make_record(seconds=8.0),
            make_record(attention="sdpa", seconds=4.0, paired=2.0),
            make_record(precision="amp", seconds=4.05, paired=1.98),
        )
        assert words.findings(found)[0].sentence.endswith(
            "Not distinguished from it by their intervals: precision=amp."
        )

    def test_a_disturbed_published_run_makes_no_speedup(self, rows):
        found = rows(
            make_record(seconds=190.0, disturbed=["load 3.0"]),
            make_record(attention="sdpa", seconds=4.8),
            make_record(precision="amp", seconds=5.0, psnr_hole_db=48.0),
        )
        fastest, _, best = words.findings(found)
        for card in (fastest, best):
            assert (card.row.name, card.figure, card.unit) == ("attention=sdpa", "4.80", "s")
        assert fastest.sentence == (
            "No speedup over published is stated: published was disturbed while it was timed (load 3.0)."
        )
        assert "published" not in str(best.costs)

    def test_pairs_hold_where_the_published_row_was_disturbed(self, rows):
        found = rows(make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", paired=1.3))
        assert words.findings(found)[0].figure == "1.30x"
        slower = rows(make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", paired=0.8))
        card = words.findings(slower)[0]
        assert (card.row.name, card.figure, card.interval) == ("published", "1x", "")

    def test_nothing_sound_names_the_row_and_its_command(self, rows):
        found = rows(make_record(attention="sdpa", disturbed=["load 3.0"]), make_record(disturbed=["load 3.0"]))
        fastest, smallest, best = words.findings(found)
        for card in (fastest, best):
            assert (card.row, card.figure) == (None, "none")
            assert card.sentence.startswith(
                "Nothing can be stated: published was disturbed while it was timed (load 3.0)"
            )
            assert card.command.startswith("python run.py data.num_frames=6")
            assert "hydra.run.dir=" in card.command
        assert smallest.row.name == "attention=sdpa"
        assert ("Latency", "8.00 s (disturbed)") in smallest.costs

    def test_swapping_makes_a_resident_set_doubtful(self, rows):
        swapped = "the system swapped: 90 MiB more in swap"
        found = rows(make_record(), make_record(attention="sdpa", peak_bytes=MIB, disturbed=[swapped]))
        assert words.findings(found)[1].row.name == "published"
        card = words.findings(rows(make_record(disturbed=[swapped])))[1]
        assert (card.row, card.figure) == (None, "none")
        assert swapped in card.sentence

    def test_published_against_itself_is_no_speedup(self, rows):
        found = rows(make_record(paired=1.02), make_record(attention="sdpa", paired=1.01))
        assert [row.speedup for row in found] == [None, 1.01]
        assert words.findings(found)[0].row.name == "attention=sdpa"

    def test_published_may_win(self, rows):
        found = rows(make_record(seconds=4.0), make_record(attention="sdpa", seconds=8.0, paired=0.5))
        fastest, smallest, best = words.findings(found)
        assert fastest.sentence == "No variant that was measured is faster than the published one."
        assert fastest.figure == "4.00"
        assert best.row.published

    def test_a_doubtful_time_that_is_lower_is_named(self, rows):
        busy = make_record(attention="sdpa", seconds=2.0, disturbed=["load 3.0"])
        fastest, _, best = words.findings(rows(make_record(seconds=4.0), busy))
        assert fastest.row.published and best.row.published
        assert fastest.sentence.startswith("No variant with a sound time is faster than the published one.")
        assert best.sentence.startswith("Nothing faster with a sound time stays within the bound: at least 40 dB")
        for card in words.findings(rows(make_record(seconds=4.0), make_record(precision="amp", seconds=3.0), busy))[
            ::2
        ]:
            assert card.row.name == "precision=amp"
            assert card.sentence.endswith(" Lower, but doubtful, is the time of attention=sdpa.")

    def test_the_truth_stands_beside_the_reference(self, rows):
        learned = dict(weights="pretrained", truth_db=24.0)
        found = rows(make_record(**learned), make_record(attention="sdpa", seconds=4.0, **learned | {"truth_db": 23.9}))
        costs = dict(words.findings(found)[0].costs)
        assert costs["Quality"] == "85.0 dB in the hole"
        assert costs["To the truth"] == "23.90 dB (reference 24.00 dB)"
        assert "To the truth" not in dict(words.findings(rows(make_record(truth_db=None)))[0].costs)

    def test_nothing_within_the_bound(self, rows):
        card = words.findings(rows(make_record(precision="amp", psnr_hole_db=20.0)))[-1]
        assert (card.row, card.command, card.figure) == (None, None, "none")
