"""What a report's cards say."""

from support.records_fixture import make_record
from support.sweeps import usual

from analysis.report import findings as words


class TestFindings:
    def test_fastest_smallest_best(self, rows):
        cards = {card.kind: card for card in words.findings(rows(*usual()))}
        assert cards["fastest"].row.name == "precision=amp"
        assert cards["fastest"].figure == "1.60x"
        assert cards["fastest"].interval == "95% interval 1.55x to 1.65x, measured in pairs"
        assert cards["fastest"].command.startswith("python run.py precision=amp ")
        assert ("Disturbed", "1 sign, see the table") in cards["fastest"].costs
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
        assert words.findings(found)[0].sentence.endswith("Not told apart from it by their intervals: precision=amp.")

    def test_published_may_win(self, rows):
        found = rows(make_record(seconds=4.0), make_record(attention="sdpa", seconds=8.0, paired=0.5))
        fastest, smallest, best = words.findings(found)
        assert fastest.sentence == "No variant that was measured is faster than the published one."
        assert fastest.figure == "4.00"
        assert best.row.published

    def test_nothing_within_the_bound(self, rows):
        card = words.findings(rows(make_record(precision="amp", psnr_hole_db=20.0)))[-1]
        assert (card.row, card.command, card.figure) == (None, None, "none")
