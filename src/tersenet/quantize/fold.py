"""quantize.fold: batch norms go into the layers before them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tersenet.core.copying import copied
from tersenet.core.errors import DataError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.forms import Target, detach, form_of, latent_of, match, weight_of, weights
from tersenet.graph import ChannelGraph
from tersenet.graph.compare import distance, samples_of, tensors_in, tolerance
from tersenet.graph.edits import Skip, change, put, take_out
from tersenet.graph.fold_norm import Normed, affine, normed
from tersenet.graph.trace import Inputs, repeatable, undisturbed

EXAMPLES = 8
"""On which outputs are compared."""

ROOM = 10
"""Times what sums in another order may differ by: every weight is rounded anew, which adds up over layers."""


@register_stage("quantize.fold")
class NormFolding(Stage):
    """Multiply the scale of each batch norm into the weight of the layer before it and add its shift to the bias, so
    that integer runtimes have one layer where there were two, and quantizers see the weight that counts.

    Jacob et al. 2018, arXiv 1712.05877, §3.2, eq. 14. The norm is that of eval mode, and what is trained later is
    trained without it. Layers without a bias get one. Outputs are compared, and norms by which they change stay.
    """

    phase = Phase.NOTHING

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        chosen = {target.name for target in match(model, self.targets, self.ignore)}
        if not fold_norms(model, chosen, example_of(context, self.method), context):
            context.note("no batch norm is folded")
        return model


@dataclass(frozen=True)
class Spread:
    """What the layer of a folded norm gives, by that norm: mean β and deviation |γ| of each channel, float64."""

    mean: torch.Tensor
    deviation: torch.Tensor


@dataclass(frozen=True, eq=False)
class Fold:
    """The weight and bias that a layer gets for its norm."""

    pair: Normed
    target: Target
    weight: torch.Tensor
    bias: torch.Tensor


def example_of(context: RunContext, method: str) -> Inputs:
    """A few inputs of the train data; raises DataError where there are none."""
    batch = next(iter(context.batches("train", 1, EXAMPLES)), None)
    if batch is None:
        raise DataError(f"{method}: runs the model on a batch of the train data, and there are none; give one example")
    return batch[0], {}


def without_forms(model: nn.Module) -> nn.Module:
    """A copy whose operators are those of its layers alone."""
    plain = copied(model)
    for target in weights(plain):
        if form_of(target) is not None:
            detach(target)
    return plain


@torch.no_grad()
def outputs_of(model: nn.Module, samples: Iterable[Inputs]) -> list[list[torch.Tensor]]:
    """What the model gives in eval mode."""
    with undisturbed(model), repeatable(model):
        return [tensors_in(model(*args, **kwargs)) for args, kwargs in samples]


@torch.no_grad()
def fold_norms(model: nn.Module, chosen: Collection[str], example: Inputs, context: RunContext) -> dict[str, Spread]:
    """Fold the norms after layers of these weights, in place: {weight: what its layer gives since}, by all of its
    names. Notes why others stay."""
    folds = _folds(model, chosen, example, context)
    samples = samples_of(example, None)
    before = outputs_of(model, samples)
    room = ROOM * tolerance({fold.target.name: fold.weight for fold in folds})
    if folds and not _gap(model, folds, samples, before) <= room:
        gaps = [(fold, _gap(model, [fold], samples, before)) for fold in folds]
        for fold, gap in gaps:
            if not gap <= room:
                _note(context, fold.pair, f"the model's output would differ by {gap:.2g}")
        folds = [fold for fold, gap in gaps if gap <= room]
    return {slot.name: spread for fold in folds for spread in [_put(model, fold)] for slot in fold.target.slots}


def _folds(model: nn.Module, chosen: Collection[str], example: Inputs, context: RunContext) -> list[Fold]:
    """What can be folded by the operators alone; notes what cannot."""
    plain = without_forms(model)
    pairs, blocked = normed(ChannelGraph(plain, example), plain)
    for norm, why in blocked.items():
        context.note(f"the norm '{norm}' is not folded: {why}")
    targets = {slot.name: target for target in weights(model) for slot in target.slots}
    found = []
    for pair in pairs:
        target = targets[f"{pair.layer}.weight"]
        if target.name not in chosen:
            continue
        if (reason := _obstacle(model, pair, target)) is not None:
            _note(context, pair, reason)
        else:
            found.append(_folded(model, pair, target))
    return found


def _note(context: RunContext, pair: Normed, reason: str) -> None:
    context.note(f"the norm '{pair.norm}' is not folded into '{pair.layer}': {reason}")


def _obstacle(model: nn.Module, pair: Normed, target: Target) -> str | None:
    """Why the weight or the bias cannot be scaled."""
    form = form_of(target)
    if form is not None and form.phase >= Phase.VALUES:
        return f"{target.name} is {form.name} already, and scales would change its values"
    if is_parametrized(model.get_submodule(pair.layer), "bias"):
        return "the layer's bias is compressed itself"
    return None if bool(weight_of(target).isfinite().all()) else f"{target.name} holds NaN or infinity"


def _folded(model: nn.Module, pair: Normed, target: Target) -> Fold:
    layer: Any = model.get_submodule(pair.layer)
    scale, shift = affine(model.get_submodule(pair.norm))  # type: ignore[arg-type]
    latent = latent_of(target)
    bias = shift if layer.bias is None else layer.bias * scale + shift
    scaled = latent * _along_outputs(layer, scale, latent)
    return Fold(pair, target, scaled.to(latent.dtype), bias.to(latent.dtype))


def _along_outputs(layer: Any, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A number for each output, so that it broadcasts over the weight."""
    if not getattr(layer, "transposed", False):
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    inputs, outputs, *kernel = weight.shape  # inputs of all groups, outputs of one
    rows = scale.reshape(layer.groups, outputs).repeat_interleave(inputs // layer.groups, 0)
    return rows.reshape(inputs, outputs, *[1] * len(kernel))


def _gap(model: nn.Module, folds: Iterable[Fold], samples: Sequence[Inputs], before: list[list[torch.Tensor]]) -> float:
    """How far outputs are from `before` with these norms folded."""
    with ExitStack() as stack:
        for fold in folds:
            stack.enter_context(_tried(model, fold))
        return max(map(distance, outputs_of(model, samples), before))


@contextmanager
def _tried(model: nn.Module, fold: Fold) -> Iterator[None]:
    """Inside, the norm is folded; afterwards the model is what it was."""
    layer: Any = model.get_submodule(fold.pair.layer)
    norm, skip, latent = model.get_submodule(fold.pair.norm), Skip(), latent_of(fold.target)
    former, given = latent.clone(), layer.bias
    try:
        put(model, norm, skip)
        latent.copy_(fold.weight)
        layer.bias = nn.Parameter(fold.bias)
        yield
    finally:
        put(model, skip, norm)
        latent.copy_(former)
        layer.bias = given


def _put(model: nn.Module, fold: Fold) -> Spread:
    layer: Any = model.get_submodule(fold.pair.layer)
    norm: Any = model.get_submodule(fold.pair.norm)
    if layer.bias is None:
        change(model, f"{fold.pair.layer}.bias", "bias", {})
    latent_of(fold.target).copy_(fold.weight)
    layer.bias.copy_(fold.bias)
    take_out(model, fold.pair.norm, 0)
    if norm.affine:
        return Spread(norm.bias.detach().double(), norm.weight.detach().double().abs())
    ones = torch.ones(len(fold.bias), dtype=torch.float64, device=fold.bias.device)
    return Spread(torch.zeros_like(ones), ones)
