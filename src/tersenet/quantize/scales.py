"""Scales of channels at joints: what makes a channel is divided by a number, what reads it is multiplied by that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tersenet.core.stage import Phase, RunContext
from tersenet.forms import Target, form_of, latent_of, weight_of, weights
from tersenet.graph.compare import distance, samples_of, tolerance
from tersenet.graph.trace import Inputs
from tersenet.quantize.fold import ROOM, outputs_of
from tersenet.quantize.joints import OUTPUT, Joint


def scale_sides(joint: Joint, scale: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
    """Divide the maker's rows and its bias, where `tensors` has it, by `scale`; multiply the readers' columns."""
    maker, bias = tensors[joint.maker.weight], joint.maker.bias
    maker.copy_(maker / joint.maker.spread(scale, maker))
    if bias is not None and bias in tensors:
        tensors[bias].copy_(tensors[bias] / scale.to(tensors[bias].device))
    for side in joint.readers:
        reader = tensors[side.weight]
        reader.copy_(reader * side.spread(scale, reader))


@torch.no_grad()
def scale_joints(
    model: nn.Module,
    found: Sequence[Joint],
    choose: Callable[[Sequence[Joint], Mapping[str, torch.Tensor]], list[torch.Tensor]],
    chosen: Collection[str],
    example: Inputs,
    context: RunContext,
) -> list[tuple[Joint, torch.Tensor]]:
    """Scale joints between weights that are `chosen`, where outputs stay what they are: the joints with their scales.

    choose: the scale of each channel, one tensor for each joint, from the joints and the weights by name.
    """
    targets = {name: target for target in weights(model) for name in (target.name, *target.aliases)}
    able = [joint for joint in found if _able(joint, targets, chosen, context)]
    scales = choose(able, {name: weight_of(target) for name, target in targets.items()})
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
        scale_sides(joint, scale, {name: latent_of(targets[name]) for name in _tensors(joint)})


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


def note_left(
    found: Sequence[Joint], blocked: Mapping[str, str], chosen: Collection[str], done: str, context: RunContext
) -> None:
    """Why channels of `chosen` weights are not scaled, those of one reason together; that outputs stay goes without
    saying. done: what joints are."""
    others = {name: why for name, why in blocked.items() if name in chosen and why != OUTPUT}
    for reason in dict.fromkeys(others.values()):
        names = [name for name, why in others.items() if why == reason]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        context.note(f"the channels of {listed} are left as they are: {reason}")
    if not found:
        context.note(f"nothing is {done}: no two layers are joined by positively homogeneous functions alone")
