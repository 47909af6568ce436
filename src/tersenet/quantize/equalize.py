"""quantize.equalize: weights on both sides of a channel get the same range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import DataError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.forms import Target, detach, form_of, latent_of, match, weight_of, weights
from tersenet.graph import ChannelGraph
from tersenet.graph.compare import distance, samples_of, tensors_in, tolerance
from tersenet.graph.trace import Inputs, repeatable, undisturbed
from tersenet.quantize.joints import OUTPUT, Joint, joints
from tersenet.quantize.signs import refuse_vectors

EXAMPLES = 8
"""On which outputs are compared."""

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
    stands between them; a batch norm does not let scales through. Outputs are compared after each joint, and where they
    differ it is undone.
    """

    phase = Phase.NOTHING

    def check(self, model: nn.Module) -> None:
        refuse_vectors(match(model, self.targets, self.ignore), self.method)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        found, blocked = self._joints(model, example := self._example(context))
        targets = {name: target for target in weights(model) for name in (target.name, *target.aliases)}
        chosen = {target.name for target in match(model, self.targets, self.ignore)}
        able = [joint for joint in found if _able(joint, targets, chosen, context)]
        scales = equalized(able, {name: weight_of(target) for name, target in targets.items()})
        samples = samples_of(example, None)
        for joint, scale in zip(able, scales, strict=True):
            _rescale(model, joint, scale, targets, samples, context)
        _note_others({name: why for name, why in blocked.items() if name in chosen}, context)
        if not found:
            context.note("nothing is equalized: no two layers are joined by positively homogeneous functions alone")
        return model

    def _example(self, context: RunContext) -> Inputs:
        batch = next(iter(context.batches("train", 1, EXAMPLES)), None)
        if batch is None:
            raise DataError(f"{self.method}: runs the model on a batch of the train data, and there are none")
        return batch[0], {}

    def _joints(self, model: nn.Module, example: Inputs) -> tuple[list[Joint], dict[str, str]]:
        """Looked for in a copy without forms, whose operators would stand between weights and layers."""
        plain = copied(model)
        for target in weights(plain):
            if form_of(target) is not None:
                detach(target)
        return joints(ChannelGraph(plain, example), plain)


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
    maker = tensors[joint.maker.weight]
    maker.copy_(maker / joint.maker.spread(scale, maker))
    if joint.bias is not None and joint.bias in tensors:
        bias = tensors[joint.bias]
        bias.copy_(bias / scale.to(bias.device))
    for side in joint.readers:
        reader = tensors[side.weight]
        reader.copy_(reader * side.spread(scale, reader))


def _able(joint: Joint, targets: Mapping[str, Target], chosen: Iterable[str], context: RunContext) -> bool:
    """Whether all weights of the joint are meant and may be scaled; notes why not."""
    if any(targets[side.weight].name not in chosen for side in joint.sides):
        return False
    named = [*(side.weight for side in joint.sides), *([joint.bias] if joint.bias else [])]
    for target in (targets[name] for name in named):
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


@torch.no_grad()
def _rescale(
    model: nn.Module,
    joint: Joint,
    scale: torch.Tensor,
    targets: Mapping[str, Target],
    samples: Sequence[Inputs],
    context: RunContext,
) -> None:
    """Apply `scale`, and take it back where the model's outputs are not what they were."""
    named = [*(side.weight for side in joint.sides), *([joint.bias] if joint.bias else [])]
    latents = {name: latent_of(targets[name]).detach() for name in named}
    former = {name: latent.clone() for name, latent in latents.items()}
    before = _outputs(model, samples)
    _apply(joint, scale, latents)
    gap = max(map(distance, _outputs(model, samples), before))
    if not gap <= tolerance(latents):
        for name, latent in latents.items():
            latent.copy_(former[name])
        context.note(
            f"the channels of {joint.maker.weight} are left as they are: with scales the model's output would differ "
            f"by {gap:.2g}"
        )


def _outputs(model: nn.Module, samples: Sequence[Inputs]) -> list[list[torch.Tensor]]:
    with undisturbed(model), repeatable(model):
        return [tensors_in(model(*args, **kwargs)) for args, kwargs in samples]


def _note_others(blocked: Mapping[str, str], context: RunContext) -> None:
    """Why channels are not scaled, those of one reason together; that outputs stay goes without saying."""
    for reason in dict.fromkeys(why for why in blocked.values() if why != OUTPUT):
        names = [name for name, why in blocked.items() if why == reason]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        context.note(f"the channels of {listed} are left as they are: {reason}")
