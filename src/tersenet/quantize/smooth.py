"""quantize.smooth: channels that layers read get ranges that are alike, so that one grid suits all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.forms import match
from tersenet.forms.inputs import LAYERS
from tersenet.graph import ChannelGraph
from tersenet.graph.axes import positions
from tersenet.graph.flow import Flow
from tersenet.graph.trace import bound, undisturbed
from tersenet.quantize.calibration import first_input
from tersenet.quantize.fold import example_of, fold_norms, without_forms
from tersenet.quantize.joints import Joint, joints
from tersenet.quantize.observe import calibration
from tersenet.quantize.scales import note_left, scale_joints
from tersenet.quantize.signs import match_matrices

LEAST = 2**-8
"""Of the largest channel's range, that which is scaled at most as far as to be alike: what is less is hardly used, and
calibration tells little of it."""

UNSEEN = "what reads them is called by no linear or convolution layer, and cannot be watched"


@register_stage("quantize.smooth")
class Smoothing(Stage):
    """Scale channels between layers so that the ranges of what layers read are alike, and the model computes what it
    did.

    Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", arXiv
    2211.10438, eq. 4: what makes channel j is divided by sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1−α), of calibration data X, and
    the layers that read it are multiplied. Makers are linear layers, convolutions and layer norms. A convolution with
    a filter for each channel has a step for each channel too and loses nothing by any scale: there sⱼ = max|Xⱼ|. It
    goes before `quantize.int8` or `quantize.activations`. Layers are joined, norms folded and outputs compared as by
    `quantize.equalize`, which looks at weights alone.
    """

    phase = Phase.NOTHING

    strength: float = Field(0.5, ge=0, le=1, description="α: 0 looks at weights alone, 1 at their inputs alone")
    fold: bool = Field(True, description="fold batch norms into the layers before them; else they stay and part layers")
    split: Literal["train", "validation"] = Field("train", description="calibration: what ranges are of, unlabelled")
    batches: int = Field(8, ge=1, description="of that split")
    batch_size: int = Field(64, ge=1, description="examples in each")

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        example = example_of(context, self.method)
        chosen = {target.name for target in match(model, self.targets, self.ignore)}
        if self.fold:
            fold_norms(model, chosen, example, context)
        plain = without_forms(model)
        graph = ChannelGraph(plain, example)
        found, blocked = joints(graph, plain, norms=True)
        readings = {joint: _readings(graph.flow, joint, model) for joint in found}
        blocked |= {joint.maker.weight: UNSEEN for joint in found if not readings[joint]}
        found = [joint for joint in found if readings[joint]]
        ranges = _ranges(model, readings, calibration(context, self.method, self.split, self.batches, self.batch_size))

        def choose(able: Sequence[Joint], tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
            return [smoothed(joint, ranges[joint], tensors, self._strength(readings[joint])) for joint in able]

        norms = {joint.maker.weight for joint in found if plain.get_parameter(joint.maker.weight).ndim == 1}
        scale_joints(model, found, choose, chosen | norms, example, context)
        note_left(found, blocked, chosen, "smoothed", context)
        return model

    def _strength(self, readings: Sequence[Reading]) -> float:
        return 1.0 if all(reading.alone for reading in readings) else self.strength


def smoothed(joint: Joint, read: torch.Tensor, tensors: Mapping[str, torch.Tensor], strength: float) -> torch.Tensor:
    """s of each channel, float64 [units] (eq. 4). read: max|X|, float64 [units]. 1 where a range is zero."""
    weighs = [side.ranges(tensors[side.weight].abs().double()).cpu() for side in joint.readers]
    read = read.clamp(min=LEAST * float(read.max()))
    largest = torch.stack(weighs).amax(0)
    return torch.where((read > 0) & (largest > 0), read**strength / largest ** (1 - strength), 1.0)


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer, and where its input has the channels of a joint: dimension, and elements of it for each, (units, n).

    alone: whether it has a filter for each channel.
    """

    layer: nn.Module
    dim: int
    elements: torch.Tensor
    alone: bool

    def largest(self, x: torch.Tensor) -> torch.Tensor:
        """max|x| of each channel, float64 [units]."""
        found = x.detach().abs().movedim(self.dim, 0).flatten(1).amax(1).double().cpu()
        return found[self.elements].amax(1)


def _readings(flow: Flow, joint: Joint, model: nn.Module) -> list[Reading]:
    """Empty unless each reader is a layer that can be watched."""
    (axis, _), *_ = positions(flow.tensors[joint.maker.weight][joint.maker.dim])
    found = []
    for contraction in flow.contractions:
        if contraction.weight not in [side.weight for side in joint.readers]:
            continue
        path, _, name = contraction.weight.rpartition(".")
        layer = model.get_submodule(path)
        if name != "weight" or not isinstance(layer, LAYERS):
            return []
        dims = flow.of(bound(contraction.node)["input"])
        elements = next(elements for leaf, elements in positions(dims[-contraction.channels]) if leaf is axis)
        found.append(Reading(layer, -contraction.channels, torch.from_numpy(elements), contraction.groups > 1))
    return found


def _ranges(
    model: nn.Module, readings: Mapping[Joint, Sequence[Reading]], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[Joint, torch.Tensor]:
    """Largest magnitude of each channel in eval mode, float64 [units]; 0 where a layer is never called."""
    found = {joint: torch.zeros(len(joint.maker.elements), dtype=torch.float64) for joint in readings}

    def look(joint: Joint, reading: Reading, _: nn.Module, args: Any, kwargs: Any) -> None:
        largest = reading.largest(first_input(args, kwargs))
        found[joint] = torch.maximum(found[joint], largest)

    with undisturbed(model), ExitStack() as stack:
        for joint, reading in ((joint, reading) for joint, some in readings.items() for reading in some):
            hook = partial(look, joint, reading)
            stack.callback(reading.layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for inputs in batches:
            model(*inputs)
    return found
