"""Each option of each group as the config folders have it, and a bench that runs rows of options on a small clip."""

import copy
import functools
from pathlib import Path

import numpy as np
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from support.configs import CONF, composed
from support.reusing import clip, hole_psnr

from propainter import Pipeline
from variants import GROUPS, Mark, apply, claims_published

Row = dict[str, str]
Option = tuple[str, str]


def options_of(conf: Path = CONF) -> dict[str, list[str]]:
    """Each group's options, the published one first."""
    return {
        group: sorted(
            (path.stem for path in (conf / group).glob("*.yaml")), key=lambda option: (option != first, option)
        )
        for group, first in GROUPS.items()
    }


def marked(mark: Mark, conf: Path = CONF) -> set[Option]:
    """The options whose function has the mark, with the settings of their YAML."""

    def has(group: str, option: str) -> bool:
        node = OmegaConf.to_container(OmegaConf.load(conf / group / f"{option}.yaml"))
        settings = {key: value for key, value in node.items() if not key.startswith("_")}
        return mark.holds(functools.partial(get_method(node["_target_"]), **settings))

    return {(group, option) for group, names in options_of(conf).items() for option in names if has(group, option)}


OPTIONS_OF = options_of()
SETTINGS = ["schedule.raft_iterations=1", "schedule.neighbor_length=4", "schedule.ref_stride=2"]
"""Two windows over the clip's three frames."""

OF_OPTIONS = {
    "chunking=fixed": ["chunking.size=2", "chunking.overlap=1"],
    "chunking=long": ["chunking.size=2", "chunking.overlap=1", "chunking.above=2"],
    "chunking=auto": ["chunking.overlap=0", "chunking.probe=[2,3]"],
    "region=hole": ["region.margin=0", "region.share=0"],
    "compile=default": ["compile.components=[transformer]"],
    "runtime=onnxruntime": ["runtime.components=[decoder]"],
    "runtime=openvino": ["runtime.components=[decoder]"],
    "runtime=aoti": ["runtime.components=[decoder]"],
}
"""So that three frames are more than a chunk, and a probe is one; the region is not the frame; and little is traced or
exported."""

SAME = {
    "raft_scale": {"auto": "full", "quarter": "half", "eighth": "half"},
    "chunking": {"auto": "none", "long": "fixed"},
}
"""Options that at this size do what another one does."""


def named(row: Row) -> str:
    return ",".join(f"{g}={o}" for g, o in row.items() if o != GROUPS[g]) or "published"


class Bench:
    """Runs rows on one clip.

    Args:
        networks: given to each row as a copy.
        flows: the folder of `flow_cache=disk`, one for all rows: an entry that is another row's would show.
        conf: the config groups.
        size: height and width of the clip's three frames.
    """

    def __init__(self, networks, flows, conf: Path = CONF, size: tuple[int, int] = (136, 144)) -> None:
        self.networks, self.flows, self.conf = networks, flows, conf
        self.cuts = flows.with_name("cuts.txt")
        self.cuts.write_text("2\n")
        self.claims = marked(claims_published, conf)
        self.video, self.masks = clip(3, *size)
        self._expected: dict[str, np.ndarray] = {}

    def pipeline(self, row: Row) -> Pipeline:
        chosen = [f"{group}={option}" for group, option in row.items()]
        more = [item for option in chosen for item in OF_OPTIONS.get(option, [])]
        if row["flow_cache"] == "disk":
            more.append(f"flow_cache.folder={self.flows}")
        if row["runtime"] not in ("torch", "tensorrt"):
            more.append(f"runtime.folder={self.flows.with_name('exported')}")
        if row["scenes"] == "file":
            more.append(f"scenes.path={self.cuts}")
        cfg = composed(*chosen, *more, *SETTINGS, conf=self.conf)
        pipeline = Pipeline(copy.deepcopy(self.networks), instantiate(cfg.schedule))
        return apply(pipeline, {group: instantiate(cfg[group]) for group in GROUPS})

    def run(self, row: Row) -> np.ndarray:
        return self.pipeline(row)(self.video, self.masks)

    def expected(self, row: Row) -> np.ndarray:
        """What those options of the row that claim nothing give beside published ones."""
        others = {g: SAME.get(g, {}).get(option, option) for g, option in row.items() if (g, option) not in self.claims}
        plain = {**GROUPS, **others}
        if named(plain) not in self._expected:
            self._expected[named(plain)] = self.run(plain)
        return self._expected[named(plain)]

    def decibels(self, row: Row) -> float:
        return hole_psnr(self.run(row), self.expected(row), self.masks)
