"""The preview of a run, with and without a reference."""

import numpy as np
import pytest
from PIL import Image

from experiments.data import LoadedClip
from experiments.record.outputs import write_preview


@pytest.mark.parametrize(("with_reference", "columns"), [(True, 4), (False, 2)])
def test_a_run_without_a_reference_has_a_preview_of_input_and_result(tmp_path, with_reference, columns):
    frames = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8)
    clip = LoadedClip("test", 24, frames, np.ones((3, 48, 64), np.uint8), None, None, 1.0, "f", 0.0)
    write_preview(tmp_path, clip, frames, frames if with_reference else None, count=2, caption="test")
    preview = np.asarray(Image.open(tmp_path / "preview.png"))
    assert preview.shape[1] == columns * 64
    assert np.array_equal(preview[28:76, 64:128], frames[0])
    assert len(list(tmp_path.glob("preview/*.png"))) == (8 if with_reference else 0)
