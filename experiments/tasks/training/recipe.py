"""A recipe of training, from the config group `train`: settings, their checks and the learning rate's schedule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from propainter.errors import InputError
from propainter.validation import check_number, check_whole

LOSSES = {
    "flow_completion": ("hole", "valid", "smooth_first", "smooth_second", "census", "edge", "consistency"),
    "generator": ("hole", "valid", "filled", "unfilled", "coarse", "adversarial"),
    "raft": ("sequence",),
}
"""Names of each network's losses."""

CHOICES = {
    "network": tuple(LOSSES),
    "init": ("default", "kaiming"),
    "data": ("folder", "synthetic"),
    "estimate": ("raft", "dis", "exact"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("milestones", "cosine", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
    "checkpointing": ("none", "blocks", "all"),
    "attention": ("manual", "sdpa"),
}

WHOLE = {
    **{"raft_iterations": 1, "batch": 1, "steps": 1, "devices": 1, "prefetch": 1, "log_every": 1},
    **dict.fromkeys(("references", "windows", "mask_dilation", "mask_margin", "warmup", "seed", "workers"), 0),
    "window": 2,
}
"""Least values of whole numbers."""

FREE = frozenset({"root", "precision", "checkpointing", "devices", "workers", "prefetch", "save_minutes", "log_every"})
"""Settings that may be others where a training goes on: none of them says what is computed, apart from rounding."""


@dataclass(frozen=True)
class Recipe:
    """The settings of conf/train/*.yaml, which says what each one is."""

    network: str
    architecture: str
    widths: Mapping[str, Any] | None
    start: str | None
    init: str
    flow_completion: str | None
    data: str
    root: str | None
    photographs: str | None
    frames: Sequence[int]
    references: int
    windows: int
    window: int
    crop: Sequence[int]
    height: int
    width: int
    estimate: str
    mask_dilation: int
    mask_margin: int
    raft_iterations: int
    batch: int
    steps: int
    losses: Mapping[str, float]
    discriminator_from: int | None
    decode_references: bool
    optimizer: str
    betas: Sequence[float]
    learning_rate: float
    weight_decay: float
    warmup: int
    schedule: str
    milestones: Sequence[int]
    decay: float
    clip_norm: float | None
    ema: float | None
    seed: int
    precision: str
    checkpointing: str
    attention: str
    devices: int
    workers: int
    prefetch: int
    save_minutes: float
    log_every: int

    @classmethod
    def of(cls, cfg: DictConfig | None) -> "Recipe":
        """Return the recipe of the config group `train`, checked.

        Raises:
            InputError: there is no recipe, or a setting makes no sense.
        """
        if cfg is None:
            raise InputError("there is no recipe; give one of conf/train, such as train=small_completion")
        given: Any = OmegaConf.to_container(cfg, resolve=True)
        names = {field.name for field in fields(cls)}
        if set(given) != names:
            first = sorted(set(given) ^ names)[0]
            raise InputError(f"train.{first} is {'no setting' if first in given else 'missing'}; see conf/train")
        recipe = cls(**given)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Check each setting, and those that belong together.

        Raises:
            InputError: a setting makes no sense; the message names it.
        """
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"train.{name} is {getattr(self, name)!r}; give {' or '.join(allowed)}")
        for name, least in WHOLE.items():
            check_whole(f"train.{name}", getattr(self, name), least)
        self._check_clips()
        self._check_losses()
        self._check_optimizer()
        if self.batch % self.devices:
            raise InputError(
                f"train.batch is {self.batch}, which {self.devices} processes (train.devices) can't share equally; "
                f"give a multiple of {self.devices}"
            )
        check_number("train.save_minutes", self.save_minutes, lambda x: x > 0, "minutes above 0")
        if not isinstance(self.decode_references, bool):
            raise InputError(f"train.decode_references is {self.decode_references!r}; give true or false")
        if not isinstance(self.widths, Mapping | None):
            raise InputError(f"train.widths is {self.widths!r}; give constructor arguments, '{{channels: 16}}'")

    def _check_clips(self) -> None:
        if not isinstance(self.frames, Sequence) or isinstance(self.frames, str) or not self.frames:
            raise InputError(f"train.frames is {self.frames!r}; give a list of lengths, [10]")
        for length in self.frames:
            check_whole("train.frames", length, 2)
        least = 128 if self.network == "raft" or self.estimate == "raft" else 32
        for name in ("height", "width"):
            side = getattr(self, name)
            check_whole(f"train.{name}", side, least)
            if side % 8:
                raise InputError(f"train.{name} is {side}; give a multiple of 8")
        if self.windows:
            self._check_crop()
        if self.data == "folder" and self.root is None:
            raise InputError("train.root is missing: give the folder that holds the videos' folders, train.root=FOLDER")
        if self.data == "folder" and self.estimate == "exact":
            raise InputError("train.estimate=exact needs train.data=synthetic: filmed videos have no exact flow")
        if self.network != "generator" and self.references:
            raise InputError(f"train.references is {self.references}; only the generator has references, give 0")

    def _check_crop(self) -> None:
        sides = self.crop
        if not isinstance(sides, Sequence) or len(sides) != 2:
            raise InputError(f"train.crop is {sides!r}; give rows and columns, [96, 128]")
        for side, most in zip(sides, (self.height, self.width), strict=True):
            check_whole("train.crop", side, 32)
            if side % 8 or side > most:
                raise InputError(
                    f"train.crop is {list(sides)}; give multiples of 8, at most {self.height}x{self.width}"
                )
        if self.network != "generator":
            raise InputError(f"train.windows is {self.windows}; only the generator learns from parts of clips, give 0")

    def _check_losses(self) -> None:
        known = LOSSES[self.network]
        for name, weight in self.losses.items():
            check_number(f"train.losses.{name}", weight, lambda x: x >= 0, "a weight of at least 0")
            if weight and name not in known:
                raise InputError(f"train.losses has {name!r}; {self.network} has {', '.join(known)}")
        if not any(self.losses.get(name) for name in known if name != "adversarial"):
            raise InputError(f"train.losses has no weight above 0; give some of {', '.join(known)}")
        if self.discriminator_from is not None:
            check_whole("train.discriminator_from", self.discriminator_from, 0)
            if self.network != "generator" or not self.losses.get("adversarial"):
                raise InputError(
                    "train.discriminator_from needs the generator and train.losses.adversarial above 0; give null"
                )

    def _check_optimizer(self) -> None:
        check_number("train.learning_rate", self.learning_rate, lambda x: x > 0, "a rate above 0")
        check_number("train.weight_decay", self.weight_decay, lambda x: x >= 0, "a number of at least 0")
        check_number("train.decay", self.decay, lambda x: 0 < x <= 1, "a factor above 0, at most 1")
        if not isinstance(self.betas, Sequence) or len(self.betas) != 2:
            raise InputError(f"train.betas is {self.betas!r}; give two numbers, [0.9, 0.99]")
        for beta in self.betas:
            check_number("train.betas", beta, lambda x: 0 <= x < 1, "two numbers from 0 to below 1")
        for step in self.milestones:
            check_whole("train.milestones", step, 1)
        if self.clip_norm is not None:
            check_number("train.clip_norm", self.clip_norm, lambda x: x > 0, "a norm above 0, or null")
        if self.ema is not None:
            check_number("train.ema", self.ema, lambda x: 0 < x < 1, "a decay between 0 and 1, or null")

    def learning_rate_factor(self, step: int) -> float:
        """Return what the learning rate of update `step` (from 0) is multiplied by."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "cosine":
            return rising * (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2
        if self.schedule == "milestones":
            return rising * self.decay ** sum(step >= milestone for milestone in self.milestones)
        return rising

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name, in plain types."""
        return asdict(self)

    def check_continues(self, earlier: Mapping[str, Any]) -> None:
        """Check that a training with the settings `earlier` can go on with these.

        More updates are fine unless the schedule depends on their number.

        Raises:
            InputError: a setting that says what is computed differs.
        """
        free = FREE if self.schedule == "cosine" else FREE | {"steps"}
        for name, value in self.as_dict().items():
            if name not in free and earlier.get(name) != value:
                raise InputError(
                    f"train.{name} is {value!r}, and this training has {earlier.get(name)!r}; leave it as it was, or "
                    "begin a new training (train.start takes its weights)"
                )
