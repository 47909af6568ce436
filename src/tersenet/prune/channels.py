"""prune.channels: the channels that matter least are removed, from every layer that has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import weights
from tersenet.forms.options import one_or_per_layer
from tersenet.graph import ChannelGraph, Group, remove, try_out
from tersenet.graph.reasons import formed, told
from tersenet.graph.trace import Inputs
from tersenet.prune.allocation import Widths, lowest
from tersenet.prune.amounts import Round, Size, amounts
from tersenet.prune.channel_contradictions import contradictions
from tersenet.prune.criteria import CRITERIA, CriterionName
from tersenet.prune.granularity import Reduce
from tersenet.prune.group_options import check_patterns, per_group, targeted
from tersenet.prune.scoring import Scoring
from tersenet.prune.statistics import Statistics
from tersenet.prune.units import UnitScores

EXAMPLES = 8
"""In the batch on which the graph is exported and the smaller model is compared with the masked one."""


@register_stage("prune.channels")
class ChannelPruning(Stage):
    """Score channels, remove the lowest from all layers that share them, and fine-tune the smaller network.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv 1608.08710 (L1 norm, independent and greedy);
    Liu et al. 2017, "Network Slimming", arXiv 1708.06519 (`criterion: bn_scale`, `scope: global`); Molchanov et al.
    2017, arXiv 1611.06440 (Taylor expansion, scores normalised by layer).

    Channels that only go together (added up, concatenated, scaled by one norm, the heads of attention) are one unit of
    a group; `tersenet plan RECIPE --groups` lists them. `targets` are the layers whose outputs go. How much goes is
    said by one of `ratio`, `keep`, `threshold` and `budget`; each group keeps at least one unit.
    """

    phase = Phase.SHAPE

    ratio: float | dict[str, float] | None = Field(
        None, description="share of units to remove, in (0, 1), or {layer: share}; of each group, or of all together"
    )
    keep: int | dict[str, int] | None = Field(None, description="how many units stay in each group, or {layer: number}")
    threshold: float | dict[str, float] | None = Field(None, description="scores below it go, or {layer: threshold}")
    budget: dict[Literal["macs", "parameters"], float] | None = Field(
        None, description="{macs: share} or {parameters: share} that is to stay, in (0, 1), at most"
    )
    criterion: CriterionName = Field("l1", description=f"{', '.join(CRITERIA)}")
    scoring: Scoring = Field(Scoring(), description="on how much data the criterion looks, and its own options")
    reduce: Reduce = Field("sum", description="how scores of all entries of a unit become one")
    scope: Literal["layer", "global"] = Field("layer", description="units compete within their group, or all together")
    normalize: Literal["mean", "l2"] | None = Field(
        None, description="scope global: divide scores by their mean or Euclidean norm in each group first"
    )
    selection: Literal["independent", "greedy"] = Field(
        "independent", description="greedy: inputs that have gone in earlier layers do not count in scores"
    )
    multiple_of: int = Field(1, ge=1, description="units left are a multiple of it (rounded up), or all")
    keep_at_least: float = Field(0.0, ge=0, lt=1, description="share of each group's units that stays in any case")
    schedule: Literal["one_shot", "iterative"] = Field(
        "one_shot", description="at once, or in `steps` rounds of removal and fine-tuning"
    )
    steps: int = Field(1, ge=1, le=100, description="rounds of the iterative schedule; each keeps the same share")
    finetune: Training | None = Field(None, description="after removal; for iterative, in every round")

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "ratio", 0, 1)

    @field_validator("keep", mode="before")
    @classmethod
    def _keep(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "keep", 0, float("inf"), whole=True)

    @field_validator("threshold", mode="before")
    @classmethod
    def _threshold(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "threshold", 0, float("inf"))

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> Any:
        if value is not None and (
            not isinstance(value, Mapping) or len(value) != 1 or {*value} - {"macs", "parameters"}
        ):
            raise ValueError("give {macs: share} or {parameters: share}, one of the two")
        return None if value is None else one_or_per_layer(value, "budget", 0, 1)

    @model_validator(mode="after")
    def _fits_together(self) -> ChannelPruning:
        wrong = next((sentence for bad, sentence in contradictions(self) if bad), None)
        if wrong:
            raise ValueError(wrong)
        return self

    def check(self, model: nn.Module) -> None:
        for option in (self.ratio, self.keep, self.threshold):
            check_patterns(option, model, self.method)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        inputs = self._example(context)
        graph = ChannelGraph(model, inputs)
        try_out(model, graph)
        first = self._first(model, graph)
        refused = self._refused(first)
        self._tell(refused, context, whole=len(refused) == len(first.given))
        for operator, places in graph.unknown.items():
            context.note(
                f"{operator} at {places[0]} is not known to the channel graph: what goes through it stays whole"
            )
        for step in range(1, self.steps + 1):
            if step > 1:
                graph = ChannelGraph(model, inputs)
                for name, reason in refused.items():
                    graph.refuse(graph[name], reason)
            refused |= self._remove(replace(first, graph=graph, step=step), context)
            if self.finetune is not None:
                context.finetune(model, self.finetune)
        self._sum_up(first, ChannelGraph(model, inputs), context)
        return model

    def _example(self, context: RunContext) -> Inputs:
        found = next(iter(context.batches("train", 1, EXAMPLES)), None)
        if found is None:
            raise DataError(f"{self.method}: follows the model on a batch of data, and there is none")
        return found[0], {}

    def _first(self, model: nn.Module, graph: ChannelGraph) -> Round:
        """The dense network, with the groups that are meant."""
        meant = targeted(model, graph, self.targets, self.ignore)
        option = next((option for option in (self.ratio, self.keep, self.threshold) if option is not None), 0.0)
        widths = Widths({group.name: group.units for group in graph}, self.keep_at_least, self.multiple_of)
        return Round(model, graph, per_group(option, meant, self.method), widths, Size.of(graph, model, {}), 1)

    def _refused(self, first: Round) -> dict[str, str]:
        """Group → why it stays, of those that are meant. One that is named in full must be able to go."""
        means = [first.graph[name] for name in first.given]
        refused = {g.name: reason for g in means if (reason := g.reason or formed(g) or self._too_few(g, first))}
        options = (self.ratio, self.keep, self.threshold)
        named = {name for option in options if isinstance(option, Mapping) for name in option}
        if exact := sorted(named & refused.keys()):
            raise RecipeError(f"{self.method}: no channel of '{exact[0]}' can go: {refused[exact[0]]}")
        return refused

    def _too_few(self, group: Group, first: Round) -> str | None:
        if self.keep is None or first.given[group.name] < group.units:
            return None
        return f"it has {group.units} channels, and {first.given[group.name]} are to stay"

    def _remove(self, now: Round, context: RunContext) -> dict[str, str]:
        """One round; group → why it stayed, against all expectation."""
        scores = self._scorer(now, context)
        if self.selection == "greedy":
            units = self._greedily(now, scores)
        else:
            found = {group.name: scores.of(group) for group in now.groups}
            units = {name: lowest(found[name], count) for name, count in amounts(self, now, found).items()}
        done = remove(now.model, now.graph, units)  # compared on the graph's example, which is real data, and on noise
        self._tell(done.refused, context)
        if done.dropped:
            context.note(
                f"in {done.dropped} layers, what removed channels gave without any input could not be folded into the "
                f"layer after and went with them (at most {done.worst:.2g})"
            )
        return done.refused

    def _greedily(self, now: Round, scores: UnitScores) -> dict[str, np.ndarray]:
        """Group after group, in the order in which the model computes: what has gone does not count in the next."""
        counts = amounts(self, now, {group.name: np.zeros(group.units) for group in now.groups})
        gone: dict[tuple[str, int], np.ndarray] = {}
        units = {}
        for group in now.groups:
            units[group.name] = lowest(scores.of(group, gone), counts[group.name])
            for member in group.by_role("in"):
                place = member.tensor, member.dim
                elements = member.elements[units[group.name]].ravel()
                gone[place] = np.union1d(gone.get(place, elements), elements)
        return units

    def _scorer(self, now: Round, context: RunContext) -> UnitScores:
        """On the weights of these groups only, so that statistics are not taken of others."""
        gammas = self.criterion == "bn_scale"
        inside = {member.tensor for group in now.groups for member in group.by_role("out", "scale")}
        scored = [t for t in weights(now.model) if inside.intersection((t.name, *t.aliases)) and t.vector == gammas]
        statistics = Statistics(now.model, scored, context, self.scoring)
        generator = partial(context.generator, "channels")
        return UnitScores(CRITERIA[self.criterion], scored, statistics, generator, self.reduce, gammas=gammas)

    def _tell(self, refused: dict[str, str], context: RunContext, whole: bool = False) -> None:
        for sentence in told(refused, ends=whole):
            context.note(sentence)

    def _sum_up(self, first: Round, after: ChannelGraph, context: RunContext) -> None:
        """What is left, of each group and of the whole."""
        left = dict.fromkeys((group.name for group in first.groups), 1)  # a single channel is no group any more
        left |= {group.name: group.units for group in after}
        size, dense = Size.of(after, first.model, {}), first.dense
        context.note(f"{size.macs / dense.macs:.1%} of the MACs are left, {size.parameters:,} parameters")
        changed = [f"{g.name} {left[g.name]} of {g.units}" for g in first.groups if left[g.name] < g.units]
        context.note(f"channels left: {', '.join(changed) or 'all'}")
