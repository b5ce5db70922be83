"""What a run loads before it runs: seconds of every run of a sweep."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support.command_line import ROOT


def loaded(code: str, **options: Any) -> str:
    """What a Python program prints, after which of the slow modules it has loaded."""
    ending = "import sys; print([m for m in ('torch._dynamo', 'sympy', 'scipy.stats', 'lpips') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{textwrap.dedent(code)}\n{ending}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_run_loads_no_compiler():
    """Nor does it in the first run, whose memory that would be counted as."""
    code = """
        from experiments.data import load, sample_clip
        from experiments.data.weights import load_networks
        from experiments.measure.first_run import first_run
        from propainter import Pipeline, Schedule
        networks, _ = load_networks({"source": "seeded", "salt": "golden", "flow_scale": 1.0})
        clip = load(sample_clip(num_frames=2, height=128, width=128))
        measured = first_run(Pipeline(networks, Schedule(raft_iterations=1)), clip)
        print(measured.effective["attention"]["ops"][0], end=" ")
    """
    assert loaded(code) == "bmm.float32 []"


@pytest.mark.slow
def test_what_needs_the_compiler_finds_it():
    code = """
        import torch
        from propainter.models.lazy_torchvision import raft
        from torchvision.ops import roi_align
        box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
        assert roi_align(torch.ones(1, 1, 8, 8), box, 2).eq(1).all()
        from torchvision.ops.roi_align import is_compile_supported
        assert is_compile_supported("cpu") in (True, False)
        assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
    """
    assert loaded(code).startswith("['torch._dynamo'")


@pytest.mark.slow
def test_a_run_without_comparison_loads_none_of_its_libraries(tmp_path):
    """Nor the symbolic algebra that torch needs for its compiler alone."""
    code = f"""
        import sys
        from experiments.launch.cli import run
        assert run(["preset=fast_cpu", "measure=none", "scenes=none", "data.num_frames=2", "data.height=128",
            "data.width=128", "weights.source=seeded", "output.audio=none", "schedule.raft_iterations=1",
            "hydra.run.dir={tmp_path}"]) == 0
        unwanted = ("sympy", "skimage.metrics", "skimage.registration", "scipy.spatial", "pandas", "lpips")
        print([name for name in unwanted if name in sys.modules])
    """
    assert loaded(code).endswith("[]\n[]")


@pytest.mark.slow
def test_machine_code_is_compiled_once(tmp_path):
    """A second process loads it."""
    code = """
        from variants.kernels.numba_corr import windows_kernel
        import torch
        stats = windows_kernel(9, torch.float32).stats
        print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert loaded(code, env=environment).startswith("0 1")
    assert loaded(code, env=environment).startswith("1 0")
