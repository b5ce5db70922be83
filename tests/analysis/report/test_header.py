"""What a report says before its findings, and the findings of other settings."""

from support.records_fixture import make_record

from analysis.report import header
from analysis.results.format import MOST_DOUBTS


class TestDoubts:
    def test_all_disturbed_is_said_before_anything_else(self, report):
        page = report(make_record(disturbed=["load 3.0"]), make_record(attention="sdpa", disturbed=["load 2.0"]))
        text = " ".join(page.text.split())
        assert text.index("Every variant was disturbed.") < text.index("Seeded weights.") < text.index("What to take")
        assert (
            "published was disturbed while it was timed (load 3.0); doubtful too: attention=sdpa, as the table says"
            in text
        )
        assert page.html.count("hydra.run.dir=") >= 2

    def test_some_are_named_with_their_commands(self, rows):
        found = rows(make_record(disturbed=["load 3.0"]), make_record(attention="sdpa"))
        (notice,) = header._doubtful(found)
        assert notice["head"] == "1 of 2 variants is doubtful."
        assert len(notice["commands"]) == 1
        assert header._doubtful(found[1:]) == []

    def test_of_many_a_few_are_named(self, rows):
        many = [make_record(frames=n, disturbed=["load 3.0"]) for n in range(3, 12)]
        (notice,) = header._doubtful(rows(*many))
        assert len(notice["commands"]) == MOST_DOUBTS
        assert " and 4 more, as the table says. No finding rests" in notice["text"]


class TestLine:
    def test_of_another_setting(self, rows):
        found = rows(make_record(), make_record(attention="sdpa", seconds=6.0))
        assert header.line(found)["fastest"] == "attention=sdpa: 6.00 s"

    def test_without_a_sound_time(self, rows):
        found = rows(make_record(disturbed=["load 3.0"]))
        assert header.line(found)["fastest"] == "not known: published was disturbed while it was timed (load 3.0)"
