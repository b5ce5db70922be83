"""What pyproject.toml can't say: conf/ is installed as the package data `propainter_bench_conf`."""

from setuptools import find_packages, setup

CONF = "propainter_bench_conf"

setup(
    packages=[*find_packages(include=["propainter*", "variants*", "experiments*", "analysis*"]), CONF],
    package_dir={CONF: "conf"},
)
