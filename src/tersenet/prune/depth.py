"""prune.depth: whole blocks go, where a residual path leads around them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, latent_of, match, weights
from tersenet.graph import ChannelGraph
from tersenet.graph.blocks import Block, blocks, remove_blocks, without
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import undisturbed
from tersenet.prune.criteria import CRITERIA, CriterionName
from tersenet.prune.evidence import Evidence
from tersenet.prune.scoring import Scoring
from tersenet.prune.statistics import Statistics


@register_stage("prune.depth")
class DepthPruning(Stage):
    """Remove the blocks that matter least: modules that add branches to their input, and so pass it on without them.

    Scored by a criterion on the weights inside (Kim et al. 2024, "Shortened LLaMA", arXiv 2402.02834, magnitude and
    Taylor), here by the mean over the entries of all its weights of two or more dimensions, since blocks of a
    convolutional network differ in size; or by the loss without the block (Song et al. 2024, "SLEB", arXiv 2402.09025,
    algorithm 1). A block whose branches are zero already goes first, as group lasso of family `depth` makes them where
    no norm follows (Wen et al. 2016, arXiv 1608.03665, §3.1). Of equal scores the first in the model goes.

    `targets` are weights in the blocks that may go; a block with a weight in `ignore` stays. That the model without a
    block gives what it gives with the block's branches at zero is checked; blocks for which it is not so stay.
    """

    phase = Phase.SHAPE

    ratio: float | None = Field(None, gt=0, le=1, description="share of the blocks to remove, in (0, 1]")
    keep: int | None = Field(None, ge=0, description="in place of ratio: how many blocks stay")
    zero_only: bool = Field(
        False, description="in place of ratio: blocks whose branches are zero already, which is free"
    )
    selection: Literal["criterion", "loss"] = Field(
        "criterion", description="by scores of weights; or one after another goes whose loss, on validation, is lowest"
    )
    criterion: CriterionName = Field("magnitude", description=f"{', '.join(CRITERIA)}")
    scoring: Scoring = Field(Scoring(), description="on how much data criterion or loss look")
    finetune: Training | None = Field(None, description="afterwards")

    @model_validator(mode="after")
    def _fits_together(self) -> DepthPruning:
        given = self.model_fields_set & {"selection", "criterion", "scoring"}
        if [self.ratio is not None, self.keep is not None, self.zero_only].count(True) != 1:
            raise ValueError("needs one of 'ratio' (share of blocks to remove), 'keep' (how many stay) and 'zero_only'")
        if self.zero_only and given:
            raise ValueError(f"'zero_only' compares no blocks; leave out '{min(given)}'")
        if self.selection == "loss" and "criterion" in given:
            raise ValueError("selection 'loss' looks at no weights; leave out 'criterion'")
        by_loss = self.selection == "loss"
        allowed = {"batches", "batch_size"} if by_loss else {*CRITERIA[self.criterion].options} - {"compensate"}
        if foreign := sorted(self.scoring.model_fields_set - allowed):
            chosen = "selection 'loss'" if by_loss else f"criterion '{self.criterion}'"
            raise ValueError(f"scoring.{foreign[0]} does not belong to {chosen}")
        return self

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        graph = ChannelGraph(model, self._example(context))
        found = self._able(model, graph, context)
        names = self._chosen(model, found, context)
        done = remove_blocks(model, graph, names)
        for name, reason in done.refused.items():
            context.note(f"'{name}' is left as it is: {reason}")
        removed = f": {', '.join(done.removed)}" if done.removed else ""
        context.note(f"{len(done.removed)} of {len(found)} blocks removed{removed}")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _example(self, context: RunContext) -> tuple[torch.Tensor, ...]:
        for inputs, _ in context.batches("train", 1, 8):
            return inputs
        raise DataError(f"{self.method}: looks at a batch of the train data, and there is none")

    def _able(self, model: nn.Module, graph: ChannelGraph, context: RunContext) -> list[Block]:
        """The blocks that can go and may go, in the order of the model; notes for those that cannot."""
        found = [block for block in blocks(model, graph) if self._meant(model, block)]
        able = [block for block in found if block.reason is None]
        if not able and not self.zero_only:
            why = f"'{found[0].name}': {found[0].reason}" if found else "none adds branches to its input"
            raise ModelError(f"{self.method}: no block of the model can go ({why})")
        for block in found:
            if block.reason is not None:
                context.note(f"'{block.name}' is left as it is: {block.reason}")
        return able

    def _meant(self, model: nn.Module, block: Block) -> bool:
        """Whether `targets` and `ignore` let it go."""
        spared = match(model, self.ignore) if self.ignore else ()
        meant = match(model, self.targets, self.ignore) if self.targets else None
        return not any(_inside(t, block) for t in spared) and (
            meant is None or any(_inside(target, block) for target in meant)
        )

    def _chosen(self, model: nn.Module, able: Sequence[Block], context: RunContext) -> list[str]:
        zero = {block.name for block in able if _is_zero(model, block)}
        if self.zero_only:
            return [block.name for block in able if block.name in zero]
        count = round(self.ratio * len(able)) if self.ratio is not None else len(able) - (self.keep or 0)
        if count < 0 or (count == 0 and self.keep is not None):
            raise RecipeError(f"{self.method}: {self.keep} blocks are to stay, and there are {len(able)} that can go")
        if count == 0:
            context.note(f"a ratio of {self.ratio:g} of {len(able)} blocks is none")
            return []
        if self.selection == "loss":
            return self._by_loss(model, able, count, context)
        scores = self._scores(model, [block for block in able if block.name not in zero], context)
        return sorted((block.name for block in able), key=lambda name: scores.get(name, -float("inf")))[:count]

    def _scores(self, model: nn.Module, able: Sequence[Block], context: RunContext) -> dict[str, float]:
        """Mean of the criterion over the entries of each block's weights."""
        inside = {block.name: _weights(model, block) for block in able}
        statistics = Statistics(model, [target for own in inside.values() for target in own], context, self.scoring)
        draw = partial(context.generator, "prune")
        found = {}
        for name, targets in inside.items():
            criterion = CRITERIA[self.criterion]
            each = [criterion(latent_of(t).detach(), draw(t.name), Evidence(t, statistics)) for t in targets]
            found[name] = float(torch.cat([scores.double().flatten() for scores in each]).mean())
        return found

    def _by_loss(self, model: nn.Module, able: Sequence[Block], count: int, context: RunContext) -> list[str]:
        """Greedily: in each round the block goes without which the loss is lowest, besides those gone before."""
        gone: list[Block] = []
        while len(gone) < count:
            losses: dict[Block, float] = {}
            for block in (block for block in able if block not in gone):
                with without(model, [*gone, block]), undisturbed(model):
                    losses[block] = self._loss(model, context)
            gone.append(min(losses, key=lambda block: losses[block]))
        return [block.name for block in gone]

    def _loss(self, model: nn.Module, context: RunContext) -> float:
        """Mean over the examples of the validation batches; infinite where it is not a number."""
        total, examples = 0.0, 0
        for inputs, target in context.batches("validation", self.scoring.batches, self.scoring.batch_size):
            total += float(context.loss(model, (inputs, target)).detach()) * len(target)
            examples += len(target)
        if not examples:
            raise DataError(f"{self.method}: selection 'loss' looks at the validation data, and there are none")
        return total / examples if total == total else float("inf")


def _inside(target: Target, block: Block) -> bool:
    return any(name.startswith(f"{block.name}.") for name in (target.name, *target.aliases))


def _weights(model: nn.Module, block: Block) -> list[Target]:
    """What a block is scored by: its weights, or where it has none of two dimensions, its vectors."""
    own = [target for target in weights(model) if _inside(target, block)]
    return [target for target in own if not target.vector] or own


def _is_zero(model: nn.Module, block: Block) -> bool:
    tensors: dict[str, Any] = tensors_of(model)
    return not any(bool(tensors[name].any()) for name in block.ends)
