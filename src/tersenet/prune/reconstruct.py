"""prune.reconstruct: channels go that the layers reading them can do without, and those layers make up for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms.options import one_or_per_layer
from tersenet.graph import ChannelGraph, Group, remove
from tersenet.graph.reasons import formed
from tersenet.graph.trace import Inputs
from tersenet.prune.group_options import check_patterns, per_group, targeted
from tersenet.prune.readers import Reader, readers
from tersenet.prune.reconstruction import MOST_COLUMNS, Reconstruction


@register_stage("prune.reconstruct")
class ReconstructPruning(Stage):
    """Choose channels by regression on what the layers that read them ought to give, remove them, and set those
    layers' weights by least squares.

    He, Zhang & Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168, eq. 1–3; or
    the greedy choice of Luo, Wu & Lin 2017, "ThiNet", arXiv 1707.06342, algorithm 1. Both choose at fixed weights; the
    optimal brain surgeon (Hassibi & Stork 1993) refits them at each step, and so sees what is redundant.

    Layers are dealt with in the order in which the model computes. The target is always what the layer gave in the
    original model, the inputs are those of the model as pruned so far, so that errors do not pile up (He et al., §3.2).
    Where several layers read a group of channels, the sum of their objectives decides and each gets its own weights. A
    bias that belongs to the layer alone is fitted too. `targets` are the layers whose outputs go.
    """

    phase = Phase.SHAPE

    ratio: float | dict[str, float] | None = Field(
        None,
        description="share of channels to remove, in (0, 1), or {group: share} (`plan --groups` lists them)",
    )
    keep: int | dict[str, int] | None = Field(
        None, description="in place of ratio: how many channels stay, or {group: number}"
    )
    selection: Literal["lasso", "thinet", "surgeon"] = Field(
        "lasso", description="how channels are chosen; surgeon: by the error that is left after reconstruction"
    )
    samples: int = Field(5000, ge=1, description="positions of each layer's output that the regression looks at")
    batches: int = Field(16, ge=1, description="over how many batches they are spread")
    batch_size: int = Field(32, ge=1, description="examples of each")
    split: Literal["train", "validation"] = Field("train", description="where batches come from")
    ridge: float = Field(1e-6, gt=0, description="pull towards the former weights, over the mean square of inputs")
    reconstruct: bool = Field(True, description="set the readers' weights by least squares; otherwise only choose")
    finetune: Training | None = Field(None, description="after all layers")

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "ratio", 0, 1)

    @field_validator("keep", mode="before")
    @classmethod
    def _keep(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "keep", 0, float("inf"), whole=True)

    @model_validator(mode="after")
    def _one_of_both(self) -> ReconstructPruning:
        if (self.ratio is None) == (self.keep is None):
            raise ValueError("needs either 'ratio' (share of channels to remove) or 'keep' (how many stay)")
        return self

    def check(self, model: nn.Module) -> None:
        for option in (self.ratio, self.keep):
            check_patterns(option, model, self.method)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        batches = self._batches(context)
        graph = ChannelGraph(model, batches[0])
        reading = readers(graph, model)
        keep = self._allowed(model, graph, reading, context)
        self._try_out(model, graph, keep, context)
        if keep:
            work = Reconstruction(model, graph, reading, batches, self, context)
            done = remove(model, graph, work.run(keep), inputs=batches[-1])
            for name, reason in done.refused.items():
                context.note(f"'{name}' is read by nothing any more but keeps its channels: {reason}")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _batches(self, context: RunContext) -> list[Inputs]:
        """All of the shape of the first: the exported graph takes no other."""
        found: list[Inputs] = [(inputs, {}) for inputs, _ in context.batches(self.split, self.batches, self.batch_size)]
        if not found:
            raise DataError(f"{self.method}: looks at batches of the {self.split} data, and there are none")
        shapes = [[tensor.shape for tensor in inputs] for inputs, _ in found]
        return [inputs for inputs, shape in zip(found, shapes, strict=True) if shape == shapes[0]]

    def _allowed(
        self, model: nn.Module, graph: ChannelGraph, reading: Mapping[str, Reader], context: RunContext
    ) -> dict[str, int]:
        """Group → units that stay. A group named in full that cannot be done is an error, others are noted."""
        keep: dict[str, int] = {}
        option = self.ratio if self.keep is None else self.keep
        for group, value in self._wanted(model, graph).items():
            stay = int(value) if self.keep is not None else max(group.units - round(value * group.units), 1)
            reason = _obstacle(group, graph, reading)
            if reason is None and stay >= group.units:
                reason = f"it has {group.units} channels, and {stay} are to stay"
            if reason is None:
                keep[group.name] = stay
            elif isinstance(option, dict) and group.name in option:
                raise RecipeError(f"{self.method}: no channel of '{group.name}' can go: {reason}")
            else:
                context.note(f"'{group.name}' is left as it is: {reason}")
        return keep

    def _wanted(self, model: nn.Module, graph: ChannelGraph) -> dict[Group, float]:
        """Group → ratio or keep."""
        option = self.ratio if self.keep is None else self.keep
        assert option is not None
        given = per_group(option, targeted(model, graph, self.targets, self.ignore), self.method)
        return {graph[name]: value for name, value in given.items()}

    def _try_out(self, model: nn.Module, graph: ChannelGraph, keep: dict[str, int], context: RunContext) -> None:
        """Remove as many channels from a copy, so that what the model's own code refuses is known beforehand."""
        sizes = {group.name: group.units for group in graph}
        trial = remove(copied(model), graph, {name: range(sizes[name] - stay) for name, stay in keep.items()})
        for name, reason in trial.refused.items():
            del keep[name]
            context.note(f"'{name}' is left as it is: {reason}")


def _obstacle(group: Group, graph: ChannelGraph, reading: Mapping[str, Reader]) -> str | None:
    """Why the readers of `group` cannot be reconstructed."""
    if group.reason is not None:
        return group.reason
    if (reason := formed(group)) is not None:
        return reason
    places = list(group.by_role("in"))
    if not places:
        return "no linear layer or convolution reads it"
    for member in places:
        reader = reading.get(member.tensor)
        if reader is None or reader.dim != member.dim:
            return f"'{member.tensor}' reads it otherwise than as a linear layer or convolution"
        shape = dict(reader_shapes(graph))[member.tensor]
        columns = int(np.prod(shape)) // shape[1 - reader.dim]
        if columns > MOST_COLUMNS:
            return f"'{member.tensor}' has {columns} inputs, and the regression holds {MOST_COLUMNS} at most"
    return None


def reader_shapes(graph: ChannelGraph) -> Iterable[tuple[str, torch.Size]]:
    """Name and shape of each parameter of the exported graph."""
    trace = graph.flow.trace
    return ((trace.tensors[n.name], n.meta["val"].shape) for n in trace.nodes if n.name in trace.tensors)
