"""quantize.equalize: weights on both sides of a channel get the same range."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from pydantic import Field, model_validator
from torch import nn

from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.forms import Target, form_of, latent_of, match, weight_of, weights
from tersenet.graph import ChannelGraph
from tersenet.graph.compare import distance, samples_of, tolerance
from tersenet.graph.edits import change
from tersenet.graph.trace import Inputs
from tersenet.quantize.absorb import absorb
from tersenet.quantize.fold import EXAMPLES, ROOM, example_of, fold_norms, outputs_of, without_forms
from tersenet.quantize.joints import OUTPUT, Joint, joints
from tersenet.quantize.signs import match_matrices

SWEEPS = 1000
"""Most passes over all joints."""

CLOSE = 1e-5
"""A pass that changes no scale by a larger share is the last."""


@register_stage("quantize.equalize")
class Equalization(Stage):
    """Cross-layer equalization: scale channels between layers so that what makes them and what reads them has the same
    range, and the model computes what it did.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, §4.1,
    eq. 9–11, repeated over all joints until nothing changes. It goes before `quantize.uniform`, of which it makes most
    with one grid for a whole weight. Layers are joined where only ReLU, LeakyReLU, PReLU, pooling and what rearranges
    stands between them. A batch norm lets no scales through, so norms are folded first, as by `quantize.fold`. Outputs
    are compared, and scales by which they change are taken back.

    Two options change what the model computes, by an amount that is noted: `relu6` and `absorb` (§4.1.3).
    """

    phase = Phase.NOTHING

    fold: bool = Field(True, description="fold batch norms into the layers before them; else they stay and part layers")
    relu6: bool = Field(False, description="put ReLU in place of ReLU6, which lets no scales through")
    absorb: bool = Field(
        False, description="move what is nearly always added by a bias, β − 3γ of a folded norm, to the readers' biases"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Equalization:
        if self.absorb and not self.fold:
            raise ValueError("'absorb' takes its amounts from folded norms; leave out 'fold: false'")
        return self

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        example = example_of(context, self.method)
        chosen = {target.name for target in match(model, self.targets, self.ignore)}
        if self.relu6:
            _replace_relu6(model, example, context)
        spreads = fold_norms(model, chosen, example, context) if self.fold else {}
        plain = without_forms(model)
        found, blocked = joints(ChannelGraph(plain, example), plain)
        scales = _equalize(model, found, chosen, example, context)
        _note_others({name: why for name, why in blocked.items() if name in chosen}, context)
        if not found:
            context.note("nothing is equalized: no two layers are joined by positively homogeneous functions alone")
        if self.absorb:
            absorb(model, scales, spreads, samples_of(example, None), context)
        return model


def equalized(joints: Sequence[Joint], tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """s of each joint, float64 [units]: √(r₁ r₂) / r₂ of the ranges of its maker and readers (eq. 11), with all other
    scales applied. 1 where a range is zero."""
    magnitudes = {side.weight: tensors[side.weight].abs().double() for joint in joints for side in joint.sides}
    scales = [torch.ones(len(joint.maker.elements), dtype=torch.float64) for joint in joints]
    for _ in range(SWEEPS):
        change = 0.0
        for place, joint in enumerate(joints):
            made = joint.maker.ranges(magnitudes[joint.maker.weight])
            read = torch.stack([side.ranges(magnitudes[side.weight]) for side in joint.readers]).amax(0)
            scale = torch.where((made > 0) & (read > 0), (made / read).sqrt(), 1.0).cpu()
            _apply(joint, scale, magnitudes)
            scales[place] = scales[place] * scale
            change = max(change, float(scale.log().abs().max()))
        if change < CLOSE:
            break
    return scales


def _apply(joint: Joint, scale: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
    """Divide the maker's rows and its bias, where `tensors` has it, by `scale`; multiply the readers' columns."""
    maker, bias = tensors[joint.maker.weight], joint.maker.bias
    maker.copy_(maker / joint.maker.spread(scale, maker))
    if bias is not None and bias in tensors:
        tensors[bias].copy_(tensors[bias] / scale.to(tensors[bias].device))
    for side in joint.readers:
        reader = tensors[side.weight]
        reader.copy_(reader * side.spread(scale, reader))


@torch.no_grad()
def _equalize(
    model: nn.Module, found: Sequence[Joint], chosen: Collection[str], example: Inputs, context: RunContext
) -> list[tuple[Joint, torch.Tensor]]:
    """Scale, where outputs stay what they are: the joints with their scales."""
    targets = {name: target for target in weights(model) for name in (target.name, *target.aliases)}
    able = [joint for joint in found if _able(joint, targets, chosen, context)]
    scales = equalized(able, {name: weight_of(target) for name, target in targets.items()})
    pairs, samples = list(zip(able, scales, strict=True)), samples_of(example, None)
    before = outputs_of(model, samples)

    def gap(some: Iterable[tuple[Joint, torch.Tensor]]) -> float:
        with _scaled(some, targets):
            return max(map(distance, outputs_of(model, samples), before))

    room = ROOM * tolerance({name: weight_of(targets[name]) for joint in able for name in _tensors(joint)})
    if pairs and not gap(pairs) <= room:
        pairs = [pair for pair in pairs if _fits(pair[0], gap([pair]), room, context)]
    _put(pairs, targets)
    return pairs


def _fits(joint: Joint, gap: float, room: float, context: RunContext) -> bool:
    if gap <= room:
        return True
    context.note(
        f"the channels of {joint.maker.weight} are left as they are: with scales the model's output would differ "
        f"by {gap:.2g}"
    )
    return False


def _tensors(joint: Joint) -> list[str]:
    """Names of all that is scaled."""
    return [*(side.weight for side in joint.sides), *([joint.maker.bias] if joint.maker.bias else [])]


def _put(pairs: Iterable[tuple[Joint, torch.Tensor]], targets: Mapping[str, Target]) -> None:
    for joint, scale in pairs:
        _apply(joint, scale, {name: latent_of(targets[name]) for name in _tensors(joint)})


@contextmanager
def _scaled(pairs: Iterable[tuple[Joint, torch.Tensor]], targets: Mapping[str, Target]) -> Iterator[None]:
    """Inside, these joints are scaled; afterwards their weights are what they were."""
    latents = {name: latent_of(targets[name]) for joint, _ in pairs for name in _tensors(joint)}
    former = {name: latent.clone() for name, latent in latents.items()}
    try:
        _put(pairs, targets)
        yield
    finally:
        for name, latent in latents.items():
            latent.copy_(former[name])


def _able(joint: Joint, targets: Mapping[str, Target], chosen: Collection[str], context: RunContext) -> bool:
    """Whether all weights of the joint are meant and may be scaled; notes why not."""
    if any(targets[side.weight].name not in chosen for side in joint.sides):
        return False
    for target in (targets[name] for name in _tensors(joint)):
        form = form_of(target)
        if form is not None and form.phase >= Phase.VALUES:
            context.note(
                f"the channels of {joint.maker.weight} are left as they are: {target.name} is {form.name} already, and "
                "scales would change its values"
            )
            return False
        if not bool(weight_of(target).isfinite().all()):
            context.note(
                f"the channels of {joint.maker.weight} are left as they are: {target.name} holds NaN or infinity"
            )
            return False
    return True


def _replace_relu6(model: nn.Module, example: Inputs, context: RunContext) -> None:
    places = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU6)]
    if not places:
        context.note("the model has no module ReLU6 that could be replaced")
        return
    samples = samples_of(example, None)[:1]
    before = outputs_of(model, samples)
    for name in places:
        change(model, name, "relu", {})
    gap = max(map(distance, outputs_of(model, samples), before))
    context.note(f"{len(places)} ReLU6 have become ReLU; on {EXAMPLES} examples outputs differ by {gap:.2g}")


def _note_others(blocked: Mapping[str, str], context: RunContext) -> None:
    """Why channels are not scaled, those of one reason together; that outputs stay goes without saying."""
    for reason in dict.fromkeys(why for why in blocked.values() if why != OUTPUT):
        names = [name for name, why in blocked.items() if why == reason]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        context.note(f"the channels of {listed} are left as they are: {reason}")
