"""What a check found, in each format."""

import json
from xml.etree import ElementTree

import pytest
from support.records_fixture import make_record
from support.sweeps import SDPA


class TestFormats:
    @pytest.fixture
    def regressed(self, blessed):
        def check(name: str) -> str:
            records = make_record(), make_record(**SDPA | {"psnr_hole_db": 70.0, "seconds": 7.0})
            return blessed.check(*records, options=["--format", name])[1]

        return check

    def test_json(self, regressed):
        found = json.loads(regressed("json"))
        assert (found["verdict"], found["exit_code"]) == ("regression", 1)
        assert [f["figure"] for f in found["regressions"]] == ["quality.psnr_hole_db", "latency.median_s"]
        assert found["regressions"][1]["before"] == "6.00 s (5.82 to 6.18)"

    def test_junit(self, regressed):
        suite = ElementTree.fromstring(regressed("junit"))
        assert {case.get("name"): len(case.findall("failure")) for case in suite.findall("testcase")} == {
            "reference": 0,
            "published": 0,
            "attention=sdpa": 1,
        }
        assert (suite.get("tests"), suite.get("failures")) == ("3", "1")

    def test_markdown(self, regressed):
        text = regressed("markdown")
        assert text.startswith("**regression")
        assert "| attention=sdpa | quality.psnr_hole_db | 85.0 dB | 70.0 dB |" in text

    def test_not_comparable_in_every_format(self, gate):
        gate.bless(make_record())
        for name in ("markdown", "json", "junit"):
            code, out = gate.check(make_record(weights="pretrained"), options=["--format", name])
            assert code == 2
            assert "other weights" in out

    def test_into_a_file(self, blessed):
        target = blessed.folder / "out" / "junit.xml"
        options = ["--format", "junit", "-o", str(target)]
        code, out = blessed.check(make_record(), make_record(**SDPA), options=options)
        assert (code, out) == (0, "")
        ElementTree.parse(target)
