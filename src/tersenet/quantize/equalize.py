"""quantize.equalize: weights on both sides of a channel get the same range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, model_validator
from torch import nn

from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.forms import match
from tersenet.graph import ChannelGraph
from tersenet.graph.compare import distance, samples_of
from tersenet.graph.edits import change
from tersenet.graph.trace import Inputs
from tersenet.quantize.absorb import absorb
from tersenet.quantize.fold import EXAMPLES, example_of, fold_norms, outputs_of, without_forms
from tersenet.quantize.joints import Joint, joints
from tersenet.quantize.scales import note_left, scale_joints, scale_sides
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
        scales = scale_joints(model, found, equalized, chosen, example, context)
        note_left(found, blocked, chosen, "equalized", context)
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
            scale_sides(joint, scale, magnitudes)
            scales[place] = scales[place] * scale
            change = max(change, float(scale.log().abs().max()))
        if change < CLOSE:
            break
    return scales


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
