"""The verdict on one figure."""

import pytest

from analysis.commands.claim_checks import judge
from analysis.commands.claims import VERDICTS

CONFIRMED, PARTLY, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED = VERDICTS


@pytest.mark.parametrize(
    ("part", "interval", "expected"),
    [
        ({"within": [14, 16]}, [14.5, 15.5], CONFIRMED),
        ({"within": [14, 16]}, [17.0, 18.0], CONTRADICTED),
        ({"within": [14, 16]}, [15.0, 17.0], INCONCLUSIVE),
        ({"at_most": 3.2}, [3.0, 3.1], CONFIRMED),
        ({"at_most": 3.2}, [3.3, 3.4], CONTRADICTED),
        ({"at_most": 3.2}, [3.1, 3.3], INCONCLUSIVE),
        ({"at_least": 30}, [31.0, 31.0], CONFIRMED),
        ({"near": 28, "tolerance": 0.1}, [24.0, 26.0], CONFIRMED),
        ({"near": 28, "tolerance": 0.1}, [20.0, 24.0], CONTRADICTED),
    ],
)
def test_other_bounds(part, interval, expected):
    assert judge(part | {"figure": "gib"}, interval[0], interval) == expected
