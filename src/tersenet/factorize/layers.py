"""Layers of a model before they become factors: what stands against it, what they read, what factors would cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from tersenet.core.copying import copied
from tersenet.core.stage import Phase
from tersenet.forms import Target, form_of, weight_of
from tersenet.graph.edits import put
from tersenet.graph.factors import Ranks, factored, obstacle
from tersenet.graph.trace import repeatable, undisturbed
from tersenet.measure.macs import count_macs


@dataclass(frozen=True)
class Cost:
    """parameters: of the weights, without bias. macs: of one call on one example; None where it is not known."""

    parameters: int
    macs: int | None

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters" + ("" if self.macs is None else f" and {self.macs:,} MACs")


def refusal(target: Target, kind: str) -> str | None:
    """Why the layer of this weight cannot become factors; None if it can."""
    form = form_of(target)
    if target.attribute != "weight" or not isinstance(target.module, nn.Module):
        return obstacle(target.module, kind) or f"'{target.attribute}' is not all of its weight"
    if (reason := obstacle(target.module, kind)) is not None:
        return reason
    if len(target.owners) > 1:
        return f"its weight is that of '{target.aliases[0]}' too, and factors would not be shared"
    if not target.slots[0].layer:
        return "it is the whole model; put it into a module"
    if form is not None and form.phase > Phase.SUPPORT:
        return f"its weight is {form.name} already; factorise first"
    return None


def parts_of(target: Target) -> list[torch.Tensor]:
    """The weight of each group, float64."""
    weight, module = weight_of(target).double(), target.module
    groups = module.groups if isinstance(module, _ConvNd) else 1
    return list(weight.reshape(groups, len(weight) // groups, *weight.shape[1:]))


def tried(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Run `model` with a container around each of `layers` {path: module}, as factors will be one.

    Returns: path → what the layer is given for one example (a meta tensor), of those that are called; path → why the
    model's own code needs the layer itself.
    """
    given: dict[str, torch.Tensor] = {}
    refused: dict[str, str] = {}
    if _reason(model, layers, inputs, given) is not None:
        for path, layer in layers.items():
            if (reason := _reason(model, {path: layer}, inputs, given)) is not None:
                refused[path] = f"the model's own code does more with it than call it: {reason}"
    return {path: found for path, found in given.items() if path not in refused}, refused


def _reason(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[torch.Tensor], given: dict[str, torch.Tensor]
) -> str | None:
    with undisturbed(model), repeatable(model), _wrapped(model, layers, given):
        try:
            model(*inputs)
        except Exception as error:  # the model's own code may do anything
            return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


@contextmanager
def _wrapped(model: nn.Module, layers: Mapping[str, nn.Module], given: dict[str, torch.Tensor]) -> Iterator[None]:
    wrappers = {path: nn.Sequential(layer).train(layer.training) for path, layer in layers.items()}
    for path, layer in layers.items():
        put(model, layer, wrappers[path])  # which now looks for `layer` no further than the wrapper
        wrappers[path].register_forward_pre_hook(partial(_keep, given, path), with_kwargs=True)
    try:
        yield
    finally:
        for path, layer in layers.items():
            put(model, wrappers[path], layer)


def _keep(given: dict[str, torch.Tensor], path: str, _: nn.Module, args: Any, kwargs: Any) -> None:
    x = args[0] if args else kwargs["input"]
    given.setdefault(path, torch.empty_like(x[:1], device="meta"))


def dense_cost(module: nn.Module, given: torch.Tensor | None) -> Cost:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return Cost(weight.numel(), None if given is None else count_macs(copied(module).to("meta"), given).total)


def cost(module: nn.Module, kind: str, ranks: Ranks, given: torch.Tensor | None) -> Cost:
    """Of factors of `module`, of these ranks."""
    factors = factored(module, kind, ranks).to("meta")
    parameters = sum(parameter.numel() for name, parameter in factors.named_parameters() if name.endswith("weight"))
    return Cost(parameters, None if given is None else count_macs(factors, given).total)


def too_dear(module: nn.Module, dense: Cost, factors: Cost) -> bool:
    """Whether factors cost more than the layer: in parameters, or in MACs, of which a look-up has none to save."""
    if factors.parameters > dense.parameters:
        return True
    if dense.macs is None or factors.macs is None or isinstance(module, nn.Embedding):
        return False
    return factors.macs > dense.macs
