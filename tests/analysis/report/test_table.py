"""The table of the report's page."""

from support.records_fixture import make_record

from analysis.report import table


def test_a_doubtful_speedup_is_marked_and_says_why(rows):
    found = rows(make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", seconds=4.8))
    speedup = table.cells(found[1], with_setting=False)[2]
    assert (speedup.text, speedup.badge) == ("39.58x", "doubtful")
    assert table.why(found[1]) == "published was disturbed while it was timed (load 3.0)"
    assert table.why(found[0]) == "load 3.0"


def test_a_sound_one_is_not(rows):
    found = rows(make_record(), make_record(attention="sdpa", seconds=4.8))
    assert table.cells(found[1], with_setting=False)[2].badge == ""
    assert table.why(found[1]) == ""
