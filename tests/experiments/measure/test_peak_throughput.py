"""The device's ceilings: measured once, kept whole, tried again where others disturbed the calibration."""

import time

import pytest
import torch

from experiments.measure import peak_throughput as calibration
from experiments.measure.peak_throughput import ceilings

CPU = torch.device("cpu")


class TestCeilings:
    FOUND = {
        "flops_per_s": {"float32": 5e10, "bfloat16": 6e10, "float16": None},
        "conv_flops_per_s": {"float32": 4e10, "bfloat16": 5e10, "float16": None},
        "copy_bytes_per_s": 9e9,
    }

    @pytest.fixture
    def measured(self, monkeypatch):
        """How often the device was measured."""
        calls = []
        monkeypatch.setattr(calibration, "_measured", lambda device: calls.append(device) or self.FOUND)
        monkeypatch.setattr(calibration, "snapshot", lambda device: {})
        return calls

    def test_measured_once_for_a_device_torch_and_threads(self, measured, tmp_path, monkeypatch):
        assert ceilings(CPU, tmp_path) == ceilings(CPU, tmp_path) == self.FOUND
        assert len(measured) == 1
        monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
        ceilings(CPU, tmp_path)
        monkeypatch.setattr(torch, "__version__", "0.0")
        ceilings(CPU, tmp_path)
        assert len(measured) == 3

    @pytest.mark.parametrize(
        "damage",
        [
            "",
            '{"ceilings": {"flops_per',
            "[]",
            '{"ceilings": {}}',
            '{"tries": 1, "quiet": true, "ceilings": []}',
            '{"tries": 1, "quiet": true, "ceilings": {"copy_bytes_per_s": 1e9, '
            '"flops_per_s": {"float32": -1}, "conv_flops_per_s": {}}}',
            b"\xff\xfe\x00",
        ],
    )
    def test_a_damaged_file_is_made_again(self, measured, tmp_path, damage, caplog):
        ceilings(CPU, tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        assert ceilings(CPU, tmp_path) == self.FOUND and len(measured) == 2
        assert "damaged" in caplog.text
        assert ceilings(CPU, tmp_path) == self.FOUND and len(measured) == 2

    def test_disturbed_it_is_tried_again_and_the_highest_counts(self, tmp_path, monkeypatch):
        speeds = iter([3e10, 5e10, 4e10, 9e10])
        disturbed = [True] * 3

        def measured(device):
            speed = next(speeds)
            return {**self.FOUND, "flops_per_s": {"float32": speed, "float16": None}, "copy_bytes_per_s": speed}

        monkeypatch.setattr(calibration, "_measured", measured)
        monkeypatch.setattr(calibration, "snapshot", lambda device: {})
        monkeypatch.setattr(calibration, "disturbances", lambda before, after: ["busy"] if disturbed.pop() else [])
        found = [ceilings(CPU, tmp_path) for _ in range(5)]
        assert [one["flops_per_s"]["float32"] for one in found] == [3e10, 5e10, 5e10, 5e10, 5e10]
        assert found[-1]["copy_bytes_per_s"] == 5e10 and found[-1]["flops_per_s"]["float16"] is None

    def test_a_folder_that_can_not_be_written_to(self, measured, tmp_path, caplog):
        (tmp_path / "file").write_text("")
        assert ceilings(CPU, tmp_path / "file") == self.FOUND
        assert "could not be kept" in caplog.text

    @pytest.mark.slow
    def test_for_real(self, tmp_path):
        start = time.process_time()
        found = ceilings(CPU, tmp_path)
        assert time.process_time() - start < 20
        assert set(found["flops_per_s"]) == set(found["conv_flops_per_s"]) == {"float32", "bfloat16", "float16"}
        assert found["flops_per_s"]["float32"] > 1e8 and found["copy_bytes_per_s"] > 1e8
        assert [path.name.endswith(".ceilings.json") for path in tmp_path.iterdir()] == [True]
