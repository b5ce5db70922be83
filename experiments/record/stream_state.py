"""What a streaming run keeps on the disk so that it can go on after a stop.

Imports no torch: `resume=FOLDER` reads the state before anything is run.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

import propainter
import variants
from propainter.errors import InputError
from propainter.fingerprint import source_fingerprint
from propainter.io.atomic import atomic_write

if TYPE_CHECKING:
    from propainter.inference.streaming import Checkpoint

STATE = "inpainted.state.npz"

_MAY_DIFFER = {
    *("isolate", "resume", "report", "cache", "limits", "measure", "repeat", "task", "quality", "device"),
    *("output.preview_frames", "flow_cache.folder", "data.video", "data.frames", "data.masks"),
}
"""Settings that may be others than before: those that do not shape the result, and the paths of the input, which is
known by its frames."""


@dataclass(frozen=True)
class StreamState:
    """A run as it was after its last part that is on the disk whole.

    Attributes:
        finished: number of finished frames.
        checkpoint: where the video goes on, or the shot that has the next frame.
        overrides: that the run was started with.
        settings: all that shape the result, by their dotted names.
        made_by: what has to be the same for a bit-equal result: device, libraries, code, weights.
        inputs: hash of the frames and masks of the finished frames.
        resumed_from: of each time that the run went on, the first frame.
    """

    finished: int
    checkpoint: "Checkpoint"
    overrides: Sequence[str]
    settings: Mapping[str, Any]
    made_by: Mapping[str, Any]
    inputs: str
    resumed_from: Sequence[int]

    def save(self, folder: Path) -> None:
        """Write it atomically, after the video's frames so far: also a power cut leaves no state without them."""
        facts = {key: value for key, value in vars(self).items() if key != "checkpoint"}
        checkpoint = asdict(self.checkpoint)
        unfinished = checkpoint.pop("unfinished")
        text = json.dumps({**facts, "checkpoint": checkpoint})
        with atomic_write(folder / STATE) as partial, partial.open("wb") as file:
            np.savez_compressed(file, unfinished=unfinished, facts=np.array(text))
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, folder: Path) -> "StreamState":
        """Read it.

        Raises:
            InputError: it is damaged.
        """
        from propainter.inference.streaming import Checkpoint

        facts, unfinished = _read(folder)
        try:
            checkpoint = Checkpoint(**facts.pop("checkpoint"), unfinished=unfinished)
            return cls(checkpoint=checkpoint, **facts)
        except (TypeError, KeyError) as error:
            raise _damaged(folder, error) from error

    def check(self, settings: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
        """Check that a run with these settings goes on with the result bit for bit.

        Raises:
            InputError: something differs that shapes the result.
        """
        for name, now in settings.items():
            then = self.settings.get(name)
            if now != then:
                raise InputError(
                    f"{name} is {now} now, and the run that was stopped has {then}; leave it out, or run it anew "
                    "without resume"
                )
        for name, now in made_by.items():
            then = self.made_by.get(name)
            if now != then:
                raise InputError(
                    f"{name} is {now} now, and the run that was stopped has {then}, so the rest would not fit its "
                    "frames bit for bit; go back to that, or run it anew without resume"
                )


def stored_overrides(folder: Path) -> list[str] | None:
    """Return what the stopped run in a folder was started with; None where no part of it is whole.

    Raises:
        InputError: the state is damaged.
    """
    return list(_read(folder)[0]["overrides"]) if (folder / STATE).exists() else None


def shaping_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return all settings that shape the result, by their dotted names."""
    found: dict[str, Any] = {}

    def collect(node: Any, name: str) -> None:
        if name in _MAY_DIFFER:
            return
        if isinstance(node, dict):
            for key, value in node.items():
                collect(value, f"{name}.{key}" if name else str(key))
        else:
            found[name] = node

    collect(json.loads(json.dumps(OmegaConf.to_container(cfg, resolve=True), default=str)), "")
    return found


def made_by(environment: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Return what has to be the same for a bit-equal result.

    Args:
        environment: the record's.
        weights: their fingerprint.
    """
    names = ("device", "torch", "cuda", "cudnn", "threads")
    packages = ("numpy", "scipy", "pillow", "torchvision", "triton", "numba", "av")
    return {
        **{name: environment[name] for name in names},
        **{name: environment["packages"][name] for name in packages},
        "the weights' fingerprint": weights,
        "the code's fingerprint": source_fingerprint(propainter, variants)[:16],
    }


def resume_command(folder: Path) -> str:
    """Return what to type so that the run in a folder goes on."""
    plain = all(character.isalnum() or character in "/._-" for character in str(folder))
    value = str(folder) if plain else QuotedString(str(folder), Quote.single).with_quotes()
    return f"python run.py {shlex.quote(f'resume={value}')}"


class PartKeeper:
    """Save a run's state after each part that its video file has whole, and know where it goes on.

    Args:
        folder: of the run.
        partial: its unfinished video.
        cfg: of the run.
        environment: the record's.
        weights: their fingerprint.
        overrides: of the run; `isolate` and `resume` are not kept.

    Attributes:
        stopped: state of the run that goes on; None for a new one.
        resumed_from: of each time that the run went on, this one included, the first frame.
        ends: checkpoints by the number of frames that are finished by then.

    Raises:
        InputError: the run can't go on where it was stopped.
    """

    def __init__(
        self,
        folder: Path,
        partial: Path,
        cfg: DictConfig,
        environment: Mapping[str, Any],
        weights: str,
        overrides: Sequence[str],
    ) -> None:
        self._folder, self._partial = folder, partial
        self._overrides = [item for item in overrides if item.split("=", 1)[0] not in ("isolate", "resume")]
        self._settings, self._made_by = shaping_settings(cfg), made_by(environment, weights)
        self.ends: dict[int, Checkpoint] = {}
        self.stopped = StreamState.load(folder) if goes_on(cfg, folder) else None
        self.resumed_from: tuple[int, ...] = ()
        if self.stopped is not None:
            self.stopped.check(self._settings, self._made_by)
            self.resumed_from = (*self.stopped.resumed_from, self.first)
        self._hashes: dict[int, str] = {}

    @property
    def first(self) -> int:
        """The first frame that this run finishes."""
        return 0 if self.stopped is None else self.stopped.finished

    @property
    def checkpoint(self) -> "Checkpoint | None":
        """Where this run goes on."""
        return None if self.stopped is None else self.stopped.checkpoint

    def add_inputs(self, count: int, inputs: str) -> None:
        """Take the hash of the first `count` frames and masks.

        Raises:
            InputError: the run that was stopped had other ones.
        """
        if count > self.first:
            self._hashes[count] = inputs
        if self.stopped is not None and count == self.first and inputs != self.stopped.inputs:
            raise InputError(
                f"the first {count} frames or their masks are not those of the run that was stopped; give the same "
                "input, or run it anew without resume"
            )

    def add(self, finished: int, checkpoint: "Checkpoint") -> None:
        """Expect that so many frames of the video will be finished at a checkpoint."""
        self.ends[finished] = checkpoint

    def watched(self, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass images on; who takes the next one after a checkpoint's last has ended a part of the file there."""
        for number, image in enumerate(images, self.first + 1):
            yield image
            checkpoint = self.ends.pop(number, None)
            inputs = self._hashes.pop(number)
            if checkpoint is not None:
                _to_disk(self._partial)
                facts = self._overrides, self._settings, self._made_by, inputs, self.resumed_from
                StreamState(number, checkpoint, *facts).save(self._folder)

    def done(self) -> None:
        """Remove the state, and then the partial file: the run is complete."""
        for path in (self._folder / STATE, self._partial):
            path.unlink(missing_ok=True)


def goes_on(cfg: DictConfig, folder: Path) -> bool:
    """Return whether a run goes on in its folder where it was stopped."""
    return cfg.resume is not None and (folder / STATE).exists()


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    try:
        with np.load(folder / STATE, allow_pickle=False) as stored:
            return json.loads(str(stored["facts"])), stored["unfinished"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    problem = str(error).splitlines()[0]
    return InputError(f"{folder / STATE} can't be read ({problem}); remove it, and the run begins anew with resume")
