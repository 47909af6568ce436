"""quantize.int8: a network for runtimes that compute in integers of eight bits, without training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from pydantic import Field
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.quantize.activations import ActivationQuantization
from tersenet.quantize.uniform import UniformQuantization

Way = Literal["minmax", "percentile", "mse", "entropy"]


@register_stage("quantize.int8")
class Int8(Stage):
    """Weights of eight bits with symmetric steps for each output channel; inputs of layers, and images that residual
    sums add up or means average, of eight bits with a zero point; biases corrected.

    Integers as in Jacob et al. 2018, arXiv 1712.05877, biases as in Nagel et al. 2019, arXiv 1906.04721, §4.2.
    Of the ways to choose the ranges of inputs, that with the least error on the validation split is taken, with the
    least loss where errors are equal or the task has no classes. Nothing is trained; `tersenet export` writes what
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
        model = self._weights().apply(model, context)
        way = self.ranges[0]
        if not context.dry and len(self.ranges) > 1:
            scores = {way: self._score(way, model, context) for way in self.ranges}
            way = min(scores, key=scores.__getitem__)
            told = ", ".join(f"{name} {1e2 * error:.2f} % (loss {loss:.4g})" for name, (error, loss) in scores.items())
            context.note(f"ranges of inputs by '{way}', of validation errors {told}")
        return self._inputs(way).apply(model, context)

    def _score(self, way: Way, model: nn.Module, context: RunContext) -> tuple[float, float]:
        found = context.evaluate(self._inputs(way).apply(copied(model), context))
        return found.get("error", 0.0), found["loss"]

    def _weights(self) -> _Weights:
        calibration: dict[str, Any] = {"bias_correction": True, "batches": self.batches, "batch_size": self.batch_size}
        return _Weights(targets=self.targets, ignore=self.ignore, **calibration if self.bias_correction else {})

    def _inputs(self, way: Way) -> _Inputs:
        calibration: dict[str, Any] = {"range": way, "batches": self.batches, "batch_size": self.batch_size}
        return _Inputs(targets=self.targets, ignore=self.ignore, sums=self.sums, **calibration)


class _Weights(UniformQuantization):
    """Errors name the method that the recipe names."""

    method: ClassVar[str] = Int8.method


class _Inputs(ActivationQuantization):
    """The same for inputs."""

    method: ClassVar[str] = Int8.method
