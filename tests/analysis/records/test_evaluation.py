"""evaluation.json: what is read of it, and what is said of a damaged one."""

import json
import tarfile

import pytest
from support.evaluation_fixture import make_evaluation, write_evaluation
from support.records_fixture import put

from analysis import load
from analysis.errors import InputError
from analysis.records.evaluation import from_document
from analysis.records.load import load_evaluations, load_with_evaluations


class TestAccess:
    def test_figures_by_name(self):
        evaluation = from_document(make_evaluation(), "there")
        published, amp, _ = evaluation.variants
        assert evaluation.baseline is published and published.differences == {} and published.speedup is None
        assert amp.name == "precision=amp" and amp.options["schedule.raft_iterations"] == 20
        assert amp.differences["psnr_hole_db"].ci95 == pytest.approx([-0.05, 0.01])
        assert (amp.speedup.value, amp.speedup.videos) == (1.32, 19)

    def test_what_is_null_is_missing(self):
        evaluation = from_document(make_evaluation(videos=2), "there")
        amp = evaluation.variants[1]
        assert "psnr_background_db" not in amp.means and "psnr_background_db" not in amp.differences
        assert amp.differences["psnr_hole_db"].ci95 is None and amp.ci95 == {}

    @pytest.mark.parametrize(
        ("key", "value", "named"),
        [
            ("baseline", "compile#1", "its baseline compile#1 is not among its variants"),
            ("schema", 2, "schema is 2, not one of 1"),
            ("variants", [], "variants has 0 entries, not 1"),
            ("dataset.videos", None, "dataset.videos is null, not of type integer"),
            ("weights", None, "weights is null, not of type object"),
        ],
    )
    def test_a_fault_is_named(self, key, value, named):
        document = make_evaluation()
        put(document, key, value)
        with pytest.raises(ValueError, match=named):
            from_document(document, "there")

    def test_faults_inside_a_variant(self):
        document = make_evaluation()
        del document["variants"][1]["means"]
        with pytest.raises(ValueError, match=r"it has no variants\[1\].means"):
            from_document(document, "there")
        document = make_evaluation()
        document["variants"][1]["speedup"]["ci95"] = [2.0, 1.0]
        with pytest.raises(ValueError, match="speedup, ends below its start"):
            from_document(document, "there")
        document = make_evaluation()
        document["variants"][2] = document["variants"][1]
        with pytest.raises(ValueError, match="twice"):
            from_document(document, "there")


class TestLoading:
    def test_folders_files_and_tars(self, tmp_path):
        folder = write_evaluation(tmp_path / "run")
        with tarfile.open(tmp_path / "records.tar", "w") as tar:
            tar.add(folder, "run")
        for path in (folder, folder / "evaluation.json", tmp_path / "records.tar"):
            (found,) = load_evaluations(path)
            assert found.dataset["videos"] == 20
        assert len(load_evaluations(folder, folder / "evaluation.json")) == 1

    def test_records_are_read_beside_it_without_a_word(self, tmp_path, caplog):
        folder = write_evaluation(tmp_path)
        assert list(load(folder)["run.task"]) == ["evaluate"]
        assert load(folder / "evaluation.json").empty
        assert caplog.text == ""

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("{", "it can't be read as JSON"),
            ("[]", "it is no evaluation"),
            (json.dumps({"kind": "evaluation", "schema": 1}), "it has no dataset"),
        ],
    )
    def test_a_damaged_one_is_left_out_with_a_sentence(self, tmp_path, caplog, content, named):
        folder = write_evaluation(tmp_path / "run")
        (folder / "evaluation.json").write_text(content)
        frame, found = load_with_evaluations(folder)
        (sentence,) = frame.attrs["left_out"]
        assert found == [] and sentence.startswith(f"{folder / 'evaluation.json'} is left out: {named}")
        assert sentence in caplog.text

    def test_a_file_of_another_name(self, tmp_path, caplog):
        (tmp_path / "davis.json").write_text(json.dumps(make_evaluation()))
        assert len(load_evaluations(tmp_path / "davis.json")) == 1
        (tmp_path / "davis.json").write_text(json.dumps(make_evaluation(baseline="gone")))
        assert load_evaluations(tmp_path / "davis.json") == []
        assert "davis.json is left out: its baseline gone" in caplog.text

    def test_neither_record_nor_evaluation(self, tmp_path):
        with pytest.raises(InputError, match="there is no record and no evaluation"):
            load_with_evaluations(tmp_path)
        with pytest.raises(InputError, match="does not exist"):
            load_with_evaluations(tmp_path / "absent")
