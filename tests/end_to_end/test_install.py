"""An ordinary install: the wheel in an environment of its own, its commands run from an empty folder."""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from support.command_line import ROOT, SMALLEST

PACKAGES = ("propainter", "variants", "experiments", "analysis")
SMALL = [*SMALLEST, "weights=seeded", "measure=none"]
RELU = """
from variants.attention import use_kernel

def relu(pipeline):
    return use_kernel(pipeline, lambda q, k, v: (q @ k.transpose(-2, -1)).relu().softmax(-1) @ v)
"""


class Installed:
    """The environment, and an empty folder to work in."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.bin = environment / ("Scripts" if os.name == "nt" else "bin")
        self.folder = folder

    def run(self, program: str, *arguments: str, **env: str) -> str:
        """Return what a program of the environment prints."""
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        caches = {"PROPAINTER_BENCH_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        command = [str(self.bin / program), *arguments]
        settings = dict(cwd=self.folder, env={**inherited, **caches, **env}, timeout=300)
        done = subprocess.run(command, capture_output=True, text=True, **settings)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel in a new environment; torch and the rest are those of the environment that the tests run in."""
    home = tmp_path_factory.mktemp("install")
    source = home / "source"
    source.mkdir()
    for name in (*PACKAGES, "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = home / "environment"
    venv.create(environment, with_pip=True, symlinks=os.name != "nt")
    made = Installed(environment, home)
    parents = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Nothing is downloaded: setuptools, which builds the wheel, is the parent's too.
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(home), str(source)]
    made.run("python", *pip, *build, PYTHONPATH=os.pathsep.join(parents))
    shutil.rmtree(source)
    (wheel,) = home.glob("*.whl")
    made.run("python", *pip, "install", "--no-deps", "--no-index", str(wheel))
    # Paths of a .pth come after the environment's own packages, and .pth files in them are not read: an editable
    # install in the parent stays out.
    (site,) = (path.parent for path in environment.rglob("propainter_bench_conf"))
    (site / "parent.pth").write_text("\n".join(dict.fromkeys(parents)))
    (home / "empty").mkdir()
    return Installed(environment, home / "empty")


@pytest.mark.slow
class TestInstalled:
    def test_it_is_the_wheel_that_runs(self, installed):
        code = f"import {','.join(PACKAGES)}, variants.conf; from experiments.system.git import commit; "
        code += f"print(*(p.__file__ for p in ({','.join(PACKAGES)})), variants.conf.CONF, *commit(), sep='\\n')"
        *places, commit, dirty, source = installed.run("python", "-c", code).splitlines()
        site = installed.bin.parent
        assert all(Path(place).is_relative_to(site) for place in places), places
        assert Path(places[-1]).name == "propainter_bench_conf"
        assert (commit, dirty, source) == ("None", "None", "None")

    def test_every_config_file_is_there(self, installed):
        (conf,) = installed.bin.parent.rglob("propainter_bench_conf")
        names = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
        assert {path.relative_to(conf) for path in conf.rglob("*.yaml")} == names
        assert not (conf.parent / "conf").exists()

    def test_the_small_weights_are_there(self, installed):
        code = "from propainter.weights import load_small; print(load_small().architecture)"
        assert installed.run("python", "-c", code) == "small\n"

    def test_one_run(self, installed):
        out = installed.run("propainter-bench", *SMALL)
        (path,) = (installed.folder / "runs").rglob("record.json")
        assert json.loads(path.read_text())["status"] == "ok"
        assert (path.parent / "inpainted.mp4").exists()
        assert str(path.parent) in out
        assert "attention: manual" in installed.run("propainter-bench", "--help")

    def test_a_sweep_with_a_variant_of_ones_own_and_its_table(self, installed):
        folder = installed.folder / "mine" / "conf" / "attention"
        folder.mkdir(parents=True)
        (folder / "relu.yaml").write_text("_target_: mine.kernels.relu\n_partial_: true\n")
        (installed.folder / "mine" / "kernels.py").write_text(RELU)
        arguments = ["hydra.searchpath=[file://mine/conf]", "-m", "attention=manual,relu", "hydra.sweep.dir=swept"]
        out = installed.run("propainter-bench", *arguments, *SMALL, PYTHONPATH=".")
        assert "report: " in out
        assert (installed.folder / "swept" / "report.html").exists()
        assert "attention=relu" in installed.run("propainter-bench-analysis", "table", "swept")

    def test_without_the_scripts(self, installed):
        """`python -m`, for those whose path has no console scripts."""
        assert "attention: manual" in installed.run("python", "-m", "experiments", "--help")
        assert "recommend" in installed.run("python", "-m", "analysis", "--help")
