"""Run a variant and the fp32 reference in step, to compare the output of each unit.

A unit is a stage (flow, completion, propagation) or a part of the generator. The networks are not changed: the
pipeline's interfaces and forward hooks are enough.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from experiments.data import LoadedClip
from experiments.errors import NonFiniteError
from propainter import DeviceStorage, Observer, Pipeline, Scene, Window
from propainter.inference.pipeline import FeatureProvider
from propainter.models.generator import Generator
from variants import UnsupportedError

Note = Callable[[str, Sequence[Tensor], Sequence[Tensor]], None]
"""Called with a unit, and what the variant and the reference gave there, tensor by tensor of equal shapes."""


def units_of(pipeline: Pipeline) -> dict[str, str]:
    """Return the units in the order in which they run, each with its stage.

    Where the transformer is compiled its blocks are out of sight, and it is one unit.
    """
    stages = {stage: stage for stage in ("flow", "completion", "propagation")}
    return stages | dict.fromkeys(("encoder", *_modules(pipeline), "prediction"), "generation")


def _modules(pipeline: Pipeline) -> dict[str, nn.Module]:
    generator = pipeline.networks.generator
    blocks = {f"block_{number}": block for number, block in enumerate(generator.transformers.transformer)}
    if "transformer" in pipeline.compiled_components:
        blocks = {"transformer": generator.transformers}
    return {
        "feature_propagation": generator.feat_prop_module,
        "soft_split": generator.ss,
        **blocks,
        "soft_composition": generator.sc,
        "decoder": generator.decoder,
    }


@dataclass
class Activations:
    """One window of the generator: by unit what it gave, and the tensors it was given (in order)."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, list[Any]] = field(default_factory=dict)


class ReferenceRun(Observer):
    """The reference over a clip: stages at once, the generator window by window as it is asked for.

    Args:
        pipeline: the published one in fp32.
        variant: its units are those of the reference too.
        clip: with a hole.

    Raises:
        NonFiniteError: a stage gave a value that is not finite.
    """

    def __init__(self, pipeline: Pipeline, variant: Pipeline, clip: LoadedClip) -> None:
        self.pipeline = pipeline
        self.stages: dict[str, list[Tensor]] = {}
        self.stored: dict[str, Tensor] = {}
        self._units = units_of(variant)
        self._calls = Activations()
        run = replace(
            pipeline,
            observer=self,
            storage=lambda device: _Storage(pipeline.storage(device), self._keep),
            feature_provider=_with_features(pipeline.feature_provider, self._encoded),
            window_loop=self._no_windows,
            compositor=lambda frames, holes: SimpleNamespace(result=lambda: frames),
        )
        run(clip.frames, clip.masks, clip.flow_masks)

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        """Keep the output of a stage; see `propainter.Observer`."""
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                raise NonFiniteError(f"the fp32 reference has a non-finite value in the {name} of stage {stage}")
        if stage != "generation":
            self.stages[stage] = list(tensors.values())

    def window(self, window: Window) -> Activations:
        """Return the inputs and the output of every unit in a window; contexts that are entered now have no effect."""
        self._calls = Activations()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.autocast(self.pipeline.networks.device.type, enabled=False))
            for context in self.pipeline.contexts:
                stack.enter_context(context("generation"))
            stack.enter_context(_hooked(_units(self.pipeline, self._units), self._given, self._gave))
            self._calls.outputs["prediction"] = self._predict(window)
        return self._calls

    def _no_windows(self, windows: Sequence[Window], predict: Callable[[Window], Tensor], _: Any) -> Iterator[int]:
        self._predict = predict
        return iter(())

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        self.stored[name] = tensor
        return tensor

    def _encoded(self, features: Tensor) -> Tensor:
        self._calls.outputs["encoder"] = features
        return features

    def _given(self, unit: str, inputs: list[Any]) -> list[Any]:
        self._calls.inputs[unit] = inputs
        return inputs

    def _gave(self, unit: str, output: Tensor) -> None:
        self._calls.outputs[unit] = output


def follow(reference: ReferenceRun, variant: Pipeline, clip: LoadedClip, note: Note, *, forced: bool) -> set[str]:
    """Run the variant over the clip, calling `note` for each unit as often as it runs.

    Args:
        forced: every unit is given the reference's input, rounded to the dtype of the variant's own.

    Returns:
        The units that can't be compared, whatever `note` got of them: their shapes are not the reference's (several
        windows together, fewer frames).

    Raises:
        UnsupportedError: a stage or the prediction has another shape than the reference's.
    """
    follower = _Follower(reference, note, forced)
    run = replace(
        variant,
        observer=follower,
        storage=lambda device: _Storage(variant.storage(device), follower.put),
        feature_provider=_with_features(variant.feature_provider, follower.encoded),
        window_loop=lambda windows, predict, compositor: variant.window_loop(
            windows, follower.watched(predict), compositor
        ),
    )
    units = _units(variant, units_of(variant))
    # Values that are not finite are expected; numpy need not warn of them.
    with _hooked(units, follower.given, follower.gave), np.errstate(invalid="ignore"):
        run(clip.frames, clip.masks, clip.flow_masks)
    return follower.unlike


class _Follower(Observer):
    def __init__(self, reference: ReferenceRun, note: Note, forced: bool) -> None:
        self.reference = reference
        self.note = note
        self.forced = forced
        self.wanted = Activations()
        self.unlike: set[str] = set()

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        if stage != "generation":
            self.compare(stage, list(tensors.values()), self.reference.stages[stage])

    def watched(self, predict: Callable[[Window], Tensor]) -> Callable[[Window], Tensor]:
        def watched_predict(window: Window) -> Tensor:
            self.wanted = self.reference.window(window)
            prediction = predict(window)
            self.compare("prediction", [prediction], [self.wanted.outputs["prediction"]])
            return prediction

        return watched_predict

    def put(self, name: str, tensor: Tensor) -> Tensor:
        return self._instead(tensor, self.reference.stored.get(name))

    def encoded(self, features: Tensor) -> Tensor:
        self.gave("encoder", features)
        return features

    def given(self, unit: str, inputs: list[Any]) -> list[Any]:
        wanted = self.wanted.inputs.get(unit, [])
        if not self.forced or _shapes(inputs) != _shapes(wanted):
            return inputs
        return [self._instead(own, other) for own, other in zip(inputs, wanted, strict=True)]

    def gave(self, unit: str, output: Tensor) -> None:
        wanted = self.wanted.outputs.get(unit)
        if wanted is not None and output.shape == wanted.shape:
            self.note(unit, [output], [wanted])
        else:
            self.unlike.add(unit)

    def compare(self, unit: str, given: list[Tensor], wanted: list[Tensor]) -> None:
        if _shapes(given) != _shapes(wanted):
            raise UnsupportedError(
                f"the variant's {unit} gives {_shapes(given)} where the reference's gives {_shapes(wanted)}: drift "
                "compares the same windows of the same clip; leave chunking, fallback and what changes the windows out"
            )
        self.note(unit, given, wanted)

    def _instead(self, own: Any, wanted: Any) -> Any:
        if not self.forced or not isinstance(own, Tensor) or not isinstance(wanted, Tensor):
            return own
        return wanted.to(device=own.device, dtype=own.dtype)


def _shapes(values: Sequence[Any]) -> list[list[int] | None]:
    return [list(value.shape) if isinstance(value, Tensor) else None for value in values]


class _Storage(DeviceStorage):
    """Another storage, with a function that sees each tensor put into it, and may replace it."""

    def __init__(self, inner: DeviceStorage, replaced: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__(inner.device)
        self.inner = inner
        self._replaced = replaced

    def put(self, name: str, tensor: Tensor) -> None:
        self.inner.put(name, self._replaced(name, tensor))

    def get(self, name: str, entries: slice | Sequence[int] = slice(None)) -> Tensor:
        return self.inner.get(name, entries)

    def drop(self, *names: str) -> None:
        self.inner.drop(*names)


def _with_features(provider: FeatureProvider, call: Callable[[Tensor], Tensor]) -> FeatureProvider:
    """Return the feature provider with a function called on each window's features."""

    def watched(generator: Generator, scene: Scene) -> Callable[[Window], Tensor]:
        features = provider(generator, scene)
        return lambda window: call(features(window))

    return watched


def _units(pipeline: Pipeline, names: dict[str, str]) -> dict[str, nn.Module]:
    """Return the generator's units among the names, as modules of this pipeline; "transformer" is all blocks."""
    generator = pipeline.networks.generator
    modules = _modules(pipeline) | {"transformer": generator.transformers}
    return {unit: modules[unit] for unit in names if unit in modules}


@contextmanager
def _hooked(
    modules: dict[str, nn.Module],
    given: Callable[[str, list[Any]], list[Any]],
    gave: Callable[[str, Tensor], None],
) -> Iterator[None]:
    """Call functions with each module's inputs, which may be replaced, and with its output, inside the block."""

    def before(unit: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            inputs, structure = tree_flatten((args, kwargs))
            return tree_unflatten(given(unit, inputs), structure)

        return hook

    def after(unit: str) -> Callable[..., None]:
        return lambda module, args, output: gave(unit, output)

    with ExitStack() as stack:
        for unit, module in modules.items():
            stack.enter_context(module.register_forward_pre_hook(before(unit), with_kwargs=True))
            stack.enter_context(module.register_forward_hook(after(unit)))
        yield
