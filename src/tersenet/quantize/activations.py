"""quantize.activations: what layers are given becomes whole numbers of equal steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, match, per_target
from tersenet.forms.addends import install
from tersenet.forms.inputs import CHILD, LAYERS, InputGrid
from tersenet.forms.options import one_or_per_layer
from tersenet.graph.edits import change
from tersenet.quantize.observe import calibration, observed
from tersenet.quantize.ranges import Range, Scheme, grid
from tersenet.quantize.sums import Points, Value, points

SUM_BITS = 8
"""What runtimes add in."""


@dataclass(frozen=True)
class Seen:
    """Of a model on calibration data. bits: of the input of each layer that is to be rounded. first: layer → the first
    that reads the same value. sums: (module, child) where a value is to be rounded that is added up or averaged.
    values: by `first` and by the path of a sum; layers that are not called have none."""

    found: Points
    bits: Mapping[str, int]
    first: Mapping[str, str]
    sums: tuple[tuple[str, str], ...]
    values: Mapping[str, torch.Tensor]


@register_stage("quantize.activations")
class ActivationQuantization(Stage):
    """Round the input of each layer to 2^bits equal steps, so that it can be computed in integers.

    Jacob et al. 2018, arXiv 1712.05877, §2 (affine grids with a zero point), with ranges from calibration data, or
    steps learned along with the weights: Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153. One
    grid for each value that layers read; together with `quantize.uniform` at 8 bits it is what int8 runtimes compute.

    Targets are linear and (transposed) convolution layers, by their weights; without any, all of these.
    """

    phase = Phase.NOTHING

    bits: int | dict[str, int] = Field(8, description="1 to 16, or {pattern: bits}; others are left alone")
    scheme: Scheme = Field("affine", description="those steps that cover the range, or as many on both sides of zero")
    range: Range = Field("mse", description="which range the grid covers")
    percentile: float = Field(99.9, gt=50, le=100, description="range percentile: what lies below it is covered")
    split: Literal["train", "validation"] = Field("train", description="what the ranges are taken from, unlabelled")
    batches: int = Field(8, gt=0, description="of that split")
    batch_size: int = Field(64, gt=0, description="examples in each")
    sums: bool = Field(False, description="round what residual sums add up and means average too, of images, to 8 bits")
    learn_step: bool = Field(False, description="train the steps (LSQ)")
    finetune: Training | None = Field(None, description="trains the model through the rounding")

    @field_validator("bits", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return one_or_per_layer(value, "bits", 1, 16, whole=True, open_=False)

    @model_validator(mode="after")
    def _fits_together(self) -> ActivationQuantization:
        bits = self.bits.values() if isinstance(self.bits, dict) else [self.bits]
        if self.scheme == "symmetric" and min(bits) < 2:
            raise ValueError("1 bit has no symmetric grid; use scheme 'affine'")
        if "percentile" in self.model_fields_set and self.range != "percentile":
            raise ValueError("'percentile' belongs to range 'percentile'")
        if self.range == "lsq" and self.scheme != "symmetric":
            raise ValueError("range 'lsq' is that of a symmetric grid; say scheme: symmetric")
        if self.range == "entropy" and max(bits) > 8:
            raise ValueError("range 'entropy' compares histograms, which are too coarse above 8 bits; use 'mse'")
        if self.learn_step and self.finetune is None:
            raise ValueError("'learn_step' needs 'finetune', in which steps are learned")
        return self

    def options_for(self) -> Iterable[str]:
        return tuple(self.bits) if isinstance(self.bits, dict) else ()

    def check(self, model: nn.Module) -> None:
        self._layers(model)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        wanted = self._wanted(model, context)
        if not context.dry:  # else there is no data, and hardly a byte to it
            self.place(model, self.observe(model, context, wanted), context)
            if self.finetune is not None:
                context.finetune(model, self.finetune)
        return model

    def observe(self, model: nn.Module, context: RunContext, wanted: Mapping[str, int] | None = None) -> Seen:
        """One pass over the calibration batches; whatever `range` is to be, these values tell it."""
        wanted = self._wanted(model, context) if wanted is None else wanted
        batches = calibration(context, self.method, self.split, self.batches, self.batch_size)
        layers = {name: model.get_submodule(name) for name in wanted}
        found = points(model, layers, tuple(x[:2] for x in batches[0]))
        first = _first_readers(found.reads, wanted)
        watched = {name: layers[name] for name in dict.fromkeys(first.values())}
        sums = tuple(dict.fromkeys(found.rounds.values())) if self.sums else ()
        sums = tuple((name, child) for name, child in sums if not hasattr(model.get_submodule(name), child))
        with ExitStack() as stack:
            for name, child in sums:
                watched[f"{name}.{child}"] = probe = nn.Identity()
                stack.callback(delattr, model.get_submodule(name), child)
                stack.callback(install(model.get_submodule(name), child, probe).remove)
            values = observed(model, watched, batches, context)
        return Seen(found, dict(wanted), first, sums, values)

    def place(self, model: nn.Module, seen: Seen, context: RunContext) -> None:
        """Grids for the ranges of what was seen of this model or of one like it."""
        for name, child in seen.sums:
            path = f"{name}.{child}"
            self._put(model, path, child, *self._grid(f"the value at {name}", seen.values[path], SUM_BITS), SUM_BITS)
        if self.sums and seen.found.lost:
            context.note(f"{seen.found.lost} sums are left as they are: no one module hands on what they add up")
        for name, width in seen.bits.items():
            rounded = seen.found.rounds.get(seen.found.reads.get(name, (0, 0)))
            if self.sums and width == SUM_BITS and rounded is not None:  # on that grid by then
                held = model.get_submodule(".".join(rounded))
                self._put(model, f"{name}.{CHILD}", "input_grid", *_held(held), width)
            elif seen.first[name] in seen.values:
                step, low = self._grid(f"the input of {name}", seen.values[seen.first[name]], width)
                self._put(model, f"{name}.{CHILD}", "input_grid", step, low, width)
            else:
                context.note(f"the input of {name} is left as it is: the model does not call the layer")

    def _wanted(self, model: nn.Module, context: RunContext) -> dict[str, int]:
        """{layer: bits of its input}, of inputs that are not rounded yet."""
        bits = per_target(self.bits, match(model, self.targets, self.ignore))
        wanted = {}
        for name, (layer, target) in self._layers(model).items():
            if hasattr(layer, CHILD):
                context.note(f"the input of {name} is rounded already; it is left as it is")
            elif target.name in bits:
                wanted[name] = bits[target.name]
        return wanted

    def _layers(self, model: nn.Module) -> dict[str, tuple[nn.Module, Target]]:
        """{name of the layer: (layer, its weight)}; raises RecipeError for a layer that is asked for and can't be."""
        targets = match(model, self.targets, self.ignore)
        wrong = next((t for t in targets if not isinstance(t.module, LAYERS)), None)
        if self.targets and wrong is not None:
            raise RecipeError(
                f"{self.method} takes linear and convolution layers, and {wrong.name} is of a {wrong.kind}"
            )
        found: dict[str, tuple[nn.Module, Target]] = {}
        for slot, target in ((slot, owner) for owner in targets for slot in owner.slots):
            new = all(slot.module is not layer for layer, _ in found.values())
            if new and slot.layer and isinstance(slot.module, LAYERS):
                found[slot.layer] = (slot.module, target)
        if not found:
            raise RecipeError(f"{self.method} takes linear and convolution layers inside a model, and there is none")
        return found

    def _grid(self, what: str, values: torch.Tensor, bits: int) -> tuple[torch.Tensor, int]:
        """Step and low."""
        if not bool(values.isfinite().all()):
            raise ModelError(f"{what} holds NaN or infinity and has no range; lower the learning rate")
        step, low = grid(values[None], bits, self.scheme, self.range, self.percentile)
        return step, int(low)

    def _put(self, model: nn.Module, path: str, kind: str, step: torch.Tensor, low: int, bits: int) -> None:
        change(model, path, kind, {"low": low, "levels": 2**bits})
        put = model.get_submodule(path)
        assert isinstance(put, InputGrid)
        put.step.requires_grad_(self.learn_step)
        with torch.no_grad():
            put.step.copy_(step)


def _held(grid: nn.Module) -> tuple[torch.Tensor, int]:
    assert isinstance(grid, InputGrid)
    return grid.step.detach(), grid.low


def _first_readers(reads: Mapping[str, Value], bits: Mapping[str, int]) -> dict[str, str]:
    """Layer → the first that reads the same value with as many bits: they share a grid, so that it is rounded once."""
    first: dict[Any, str] = {}
    return {name: first.setdefault((reads.get(name, name), width), name) for name, width in bits.items()}
