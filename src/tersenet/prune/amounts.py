"""How many units of each group a round of `prune.channels` removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.graph import ChannelGraph, Group
from tersenet.graph.cost import macs, parameters
from tersenet.graph.reasons import formed
from tersenet.prune.allocation import Counts, Scores, Widths, by_share, by_threshold, normalised, together, within
from tersenet.prune.schedule import geometric

if TYPE_CHECKING:
    from tersenet.prune.channels import ChannelPruning

FINENESS = 10_000
"""Steps of the ratio among which a budget is met where every group gives the same share."""


@dataclass(frozen=True)
class Size:
    """MACs of one batch, and parameters."""

    macs: int
    parameters: int

    @classmethod
    def of(cls, graph: ChannelGraph, model: nn.Module, gone: Mapping[Group, int]) -> Size:
        return cls(macs(graph, gone), parameters(graph, model, gone))


@dataclass(frozen=True)
class Round:
    """The network as it is in round `step`, and what it was at first (`dense`, `widths`).

    given: group's name → ratio, number to keep or threshold, of every group that is meant (of no meaning for a budget).
    """

    model: nn.Module
    graph: ChannelGraph
    given: Mapping[str, float]
    widths: Widths
    dense: Size
    step: int

    @property
    def groups(self) -> list[Group]:
        """Those that are meant and can go."""
        return [g for g in self.graph if g.name in self.given and g.prunable and formed(g) is None]

    def size(self, counts: Counts) -> Size:
        """After so many units of each group have gone."""
        return Size.of(self.graph, self.model, {group: counts[group.name] for group in self.groups})


def amounts(stage: ChannelPruning, now: Round, scores: Scores) -> Counts:
    """Units of each group that go in this round.

    Raises RecipeError where a budget is below what the options allow.
    """
    if not scores:
        return {}
    if stage.threshold is not None:
        return by_threshold(scores, now.widths, now.given)
    if stage.budget is None:
        return _shares(stage, now, scores)
    if stage.scope == "global":
        comparable = _comparable(stage, scores)
        most = sum(map(len, scores.values()))
        return _within(stage, now, most, lambda step: together(comparable, now.widths, step))
    return _within(
        stage,
        now,
        FINENESS,
        lambda step: by_share(scores, now.widths, dict.fromkeys(scores, step / FINENESS)),
    )


def _shares(stage: ChannelPruning, now: Round, scores: Scores) -> Counts:
    originals = now.widths.originals
    shares = {name: now.given[name] if stage.keep is None else 1 - now.given[name] / originals[name] for name in scores}
    shares = {name: geometric(max(share, 0.0), now.step, stage.steps) for name, share in shares.items()}
    if stage.scope == "layer":
        return by_share(scores, now.widths, shares)
    total = sum(originals[name] for name in scores)
    gone = total - sum(map(len, scores.values()))
    wanted = round(next(iter(shares.values())) * total)
    return together(_comparable(stage, scores), now.widths, max(wanted - gone, 0))


def _comparable(stage: ChannelPruning, scores: Scores) -> Scores:
    return scores if stage.normalize is None else normalised(scores, stage.normalize)


def _within(stage: ChannelPruning, now: Round, most: int, counts: Callable[[int], Counts]) -> Counts:
    assert stage.budget is not None
    what, share = next(iter(stage.budget.items()))
    share = 1 - geometric(1 - share, now.step, stage.steps)
    dense = getattr(now.dense, what)
    chosen = within(share * dense, most, counts, lambda found: getattr(now.size(found), what))
    left = getattr(now.size(chosen), what) / dense
    if left > share:
        raise RecipeError(
            f"{stage.method}: budget.{what}: {share:.1%} cannot be met, since the smallest network that these options "
            f"allow has {left:.1%}; raise it, or mean more layers"
        )
    return chosen
