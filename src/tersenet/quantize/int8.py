"""quantize.int8: a network for runtimes that compute in integers of eight bits, without training."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from pydantic import Field
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.graph.trace import Inputs
from tersenet.quantize.activations import ActivationQuantization
from tersenet.quantize.fold import outputs_of
from tersenet.quantize.uniform import UniformQuantization

Way = Literal["minmax", "percentile", "mse", "entropy"]
COMPARED = (4, 32)
"""Batches, and examples in each, on which outputs are compared: of the same examples, a few tell ways apart."""


class Score(NamedTuple):
    """error: of the validation split. room: its standard error. gap: by which outputs differ from those of floats, the
    root of Σ‖difference‖² / Σ‖output‖²."""

    error: float
    room: float
    gap: float

    def told(self) -> str:
        return f"{1e2 * self.error:.2f} % (outputs {1e2 * self.gap:.2f} % off)"


@register_stage("quantize.int8")
class Int8(Stage):
    """Weights of eight bits with symmetric steps for each output channel; inputs of layers, and images that residual
    sums add up or means average, of eight bits with a zero point; biases corrected.

    Integers as in Jacob et al. 2018, arXiv 1712.05877, biases as in Nagel et al. 2019, arXiv 1906.04721, §4.2.
    Of the ways to choose the ranges of inputs, that with the least error on the validation split is taken. Errors that
    are no further apart than their standard error do not tell ways apart: of these, and where the task has no classes,
    it is the way whose outputs are nearest to those of floats. Nothing is trained; `tersenet export` writes what
    runtimes compute in integers.
    """

    phase = Phase.VALUES

    ranges: tuple[Way, ...] = Field(get_args(Way), min_length=1, description="ways that are tried for inputs")
    sums: bool = Field(True, description="round what residual sums add up and means average too, for integers")
    bias_correction: bool = Field(True, description="shift biases so that outputs stay the same in the mean")
    batches: int = Field(8, ge=1, description="calibration: how many batches of the training split, unlabelled")
    batch_size: int = Field(64, ge=1, description="calibration: examples in each")

    def check(self, model: nn.Module) -> None:
        self._weights().check(model)
        self._inputs(self.ranges[0]).check(model)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        choose, way = len(self.ranges) > 1, self.ranges[0]
        if context.dry:
            return self._inputs(way).apply(self._weights().apply(model, context), context)
        shown = context.batches("validation", *COMPARED) if choose else ()
        samples: list[Inputs] = [(inputs, {}) for inputs, _ in shown]
        floats = _outputs(model, samples)
        model = self._weights().apply(model, context)
        seen = self._inputs(way).observe(model, context)
        if choose:
            scores = {}
            for way in self.ranges:
                self._inputs(way).place(rounded := copied(model), seen, context)
                scores[way] = _score(rounded, samples, floats, context)
            way = _chosen(scores)
            told = ", ".join(f"{name} {score.told()}" for name, score in scores.items())
            context.note(f"ranges of inputs by '{way}', of validation errors {told}")
        self._inputs(way).place(model, seen, context)
        return model

    def _weights(self) -> _Weights:
        calibration: dict[str, Any] = {"bias_correction": True, "batches": self.batches, "batch_size": self.batch_size}
        return _Weights(targets=self.targets, ignore=self.ignore, **calibration if self.bias_correction else {})

    def _inputs(self, way: Way) -> _Inputs:
        calibration: dict[str, Any] = {"range": way, "batches": self.batches, "batch_size": self.batch_size}
        return _Inputs(targets=self.targets, ignore=self.ignore, sums=self.sums, **calibration)


def _score(rounded: nn.Module, samples: list[Inputs], floats: list[torch.Tensor], context: RunContext) -> Score:
    found = context.evaluate(rounded)
    error = found.get("error", 0.0)
    room = math.sqrt(error * (1 - error) / found["examples"])
    return Score(error, room, _gap(_outputs(rounded, samples), floats))


@torch.no_grad()
def _outputs(model: nn.Module, samples: list[Inputs]) -> list[torch.Tensor]:
    return [tensor.double() for tensors in outputs_of(model, samples) for tensor in tensors]


def _gap(rounded: list[torch.Tensor], floats: list[torch.Tensor]) -> float:
    apart = sum(float((a - b).square().sum()) for a, b in zip(rounded, floats, strict=True))
    size = sum(float(b.square().sum()) for b in floats)
    return math.sqrt(apart / size) if size and math.isfinite(apart) else math.inf


def _chosen(scores: dict[Way, Score]) -> Way:
    best = min(scores.values())
    near = {way: score.gap for way, score in scores.items() if score.error <= best.error + best.room}
    return min(near, key=near.__getitem__)


class _Weights(UniformQuantization):
    """Errors name the method that the recipe names."""

    method: ClassVar[str] = Int8.method


class _Inputs(ActivationQuantization):
    """The same for inputs."""

    method: ClassVar[str] = Int8.method
