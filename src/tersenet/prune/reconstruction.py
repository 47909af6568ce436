"""Front to back through the layers that read channels: which of those go, and the weights that make up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from tersenet.core.stage import RunContext
from tersenet.graph import ChannelGraph, Group, Member
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs
from tersenet.prune.readers import Reader, Rows, Sampler
from tersenet.prune.regression import (
    Layer,
    Moments,
    Objective,
    by_lasso,
    by_surgeon,
    by_thinet,
    objective,
    reconstructed,
)

MOST_COLUMNS = 12_000
"""Inputs of one layer, places of the kernel counted: the regression holds a square matrix of them in memory."""

CHOICES: dict[str, Callable[[Objective, int], torch.Tensor]] = {"lasso": by_lasso, "thinet": by_thinet}


class Options(Protocol):
    """What of the stage's options is used here."""

    @property
    def selection(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def ridge(self) -> float: ...
    @property
    def reconstruct(self) -> bool: ...


class Reconstruction:
    """Gives every reader in turn weights that are zero for channels that go. Shapes stay: a channel that nobody reads
    may be taken out in the end, all at once, and the graph exported at the beginning holds until then."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        reading: Mapping[str, Reader],
        batches: Sequence[Inputs],
        options: Options,
        context: RunContext,
    ) -> None:
        self.model, self.graph, self.reading, self.options = model, graph, reading, options
        self.state = tensors_of(model)
        self.sampler = Sampler(
            graph, batches, options.samples, lambda node, batch: context.generator("samples", node, batch)
        )
        self.gone: dict[str, np.ndarray] = {}
        self.target: Rows = {}

    def run(self, keep: Mapping[str, int]) -> dict[str, list[int]]:
        """Set the weights of all readers of the groups in `keep` (group → units that stay).

        Returns: group → units that go.
        """
        affected = {
            name: found
            for name in self.reading
            if (found := [g for g in self.graph if g.name in keep and self._places(g, name)])
        }
        self.target = self.sampler.given(self.model, [node for name in affected for node in self.reading[name].nodes])
        for name, groups in affected.items():
            open_ = [group for group in groups if group.name not in self.gone]
            needed = {name, *(member.tensor for group in open_ for member in group.by_role("in"))}
            moments = self._moments(needed)
            for group in open_:
                self.gone[group.name] = self._choose(group, moments, keep[group.name])
            self._settle(self.reading[name], moments[name])
        return {name: units.tolist() for name, units in self.gone.items()}

    def _places(self, group: Group, weight: str) -> list[Member]:
        return [member for member in group.by_role("in") if member.tensor == weight]

    def _moments(self, names: set[str]) -> dict[str, Moments]:
        """Of what readers read now and what they gave in the original model."""
        nodes = [node for name in names for node in self.reading[name].nodes]
        rows = self.sampler.read(self.model, nodes)
        return {name: self._joined(self.reading[name], rows) for name in names}

    def _joined(self, reader: Reader, rows: Mapping[Node, torch.Tensor]) -> Moments:
        x = torch.cat([rows[node] for node in reader.nodes], dim=1)
        y = torch.cat([self.target[node] for node in reader.nodes], dim=1)
        return Moments.of(x, y, intercept=reader.bias is not None)

    def _choose(self, group: Group, moments: Mapping[str, Moments], keep: int) -> np.ndarray:
        """Units of `group` that go, by the sum of its readers' objectives."""
        names = sorted({member.tensor for member in group.by_role("in")})
        layers = [self._layer(group, name, moments[name]) for name in names]
        if self.options.selection == "surgeon":
            stay = by_surgeon(layers, group.units, keep, self.options.ridge)
        else:
            problems = (objective(each.moments, each.weight * each.kept, each.units, group.units) for each in layers)
            stay = CHOICES[self.options.selection](reduce(add, problems), keep)
        return np.setdiff1d(np.arange(group.units), stay.cpu().numpy())

    def _layer(self, group: Group, name: str, moments: Moments) -> Layer:
        reader, weight = self.reading[name], self.state[name].detach()
        units = torch.full((weight.shape[reader.dim],), -1, dtype=torch.long)
        for member in self._places(group, name):
            numbers = np.repeat(np.arange(group.units), member.elements.shape[1])
            units[torch.from_numpy(member.elements.ravel())] = torch.from_numpy(numbers)
        units = units.repeat_interleave(reader.places(weight)).to(weight.device)
        return Layer(moments, reader.matrix(weight), units, self._kept(reader))

    def _settle(self, reader: Reader, moments: Moments) -> None:
        """The reader's weights (and bias): zero for what goes, by least squares for the rest."""
        weight, kept = self.state[reader.weight], self._kept(reader)
        with torch.no_grad():
            before = reader.matrix(weight.detach())
            if not self.options.reconstruct:
                reader.set(weight, before * kept)
                return
            after = reconstructed(moments, before, kept, self.options.ridge)
            reader.set(weight, after)
            if reader.bias is not None:
                self.state[reader.bias].add_(moments.intercept(after).reshape(-1).to(weight.dtype))

    def _kept(self, reader: Reader) -> torch.Tensor:
        """Which columns belong to channels that stay, as far as that is decided: bool (columns)."""
        weight = self.state[reader.weight]
        kept = torch.ones(weight.shape[reader.dim], dtype=torch.bool)
        for group in self.graph:
            for member in self._places(group, reader.weight) if group.name in self.gone else ():
                kept[torch.from_numpy(member.elements[self.gone[group.name]].ravel())] = False
        return kept.repeat_interleave(reader.places(weight)).to(weight.device)
