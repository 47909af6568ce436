"""The prequential code of a data set's labels: each block by the network trained on the blocks before it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from tersenet.bounds.description_length import Prequential, doubling
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.seeds import derive, generator
from tersenet.data.parts import part_of
from tersenet.data.source import Source
from tersenet.flow.context import fabric_for
from tersenet.flow.on_training_data import Measured
from tersenet.flow.progress import Progress, Quiet
from tersenet.measure.accuracy import evaluate
from tersenet.models import build
from tersenet.train.loop import fit
from tersenet.train.objectives import output_of

FIRST = 16
"""Labels that are coded uniformly; each block after is as long as all before it."""


def prequential(measured: Measured, progress: Progress | None = None) -> Prequential:
    """Trains the dense network of the recipe anew for each block, as `train` says, without teacher and without trained
    weights to start from, for both may know the labels. It takes about as long as training on all of them once, as
    epochs on half the labels take half as long.

    Blocks are drawn by the recipe's seed, since data may be sorted. Raises RecipeError or DataError where there is no
    network to train, or no labels that it says how likely are.
    """
    recipe, progress, classes = measured.recipe, progress or Quiet(), measured.classes
    if classes is None:
        raise DataError("--prequential: codes class labels by their likelihood, which needs objective 'cross_entropy'")
    if recipe.train is None:
        raise RecipeError("--prequential: the recipe has no 'train', which says how to train; give --recipe")
    training = recipe.train.model_copy(update={"teacher": None})
    fresh, fabric, source = _maker(measured), fabric_for(recipe.runtime), measured.splits.train

    def trained(examples: Source, seen: int) -> nn.Module:
        progress.phase(f"prequential: training on {seen:,} of {len(source):,} labels")
        model = fresh()
        fit(model, examples, training, fabric, seed=derive(recipe.seed, "prequential", seen), on_epoch=progress.epoch)
        return model

    def loss(model: nn.Module, examples: Source) -> float:
        return evaluate(model, examples, measured.objective, output_of, fabric.device)["loss"]

    order = torch.randperm(len(source), generator=generator(recipe.seed, "prequential"))
    return by_blocks(source, order, doubling(len(source), FIRST), classes, trained, loss)


def by_blocks(
    source: Source,
    order: torch.Tensor,
    sizes: tuple[int, ...],
    classes: int,
    trained: Callable[[Source, int], nn.Module],
    loss: Callable[[nn.Module, Source], float],
) -> Prequential:
    """order: places of the examples. trained(examples, how many): a model that has seen these alone. loss(model,
    examples): mean −ln p(label)."""
    losses, seen = [], 0
    for size, block in pairwise(sizes):
        seen += size
        model = trained(part_of(source, order[:seen]), seen)
        losses.append(loss(model, part_of(source, order[seen : seen + block])))
    return Prequential(sizes, tuple(losses), classes)


def _maker(measured: Measured) -> Callable[[], nn.Module]:
    recipe: Recipe = measured.recipe
    if recipe.model is not None:
        untrained = recipe.model.model_copy(update={"weights": None})
        return lambda: build(untrained, recipe.seed)
    if measured.fresh is None:
        raise RecipeError("--prequential: the file does not say how its network is made; give --recipe")
    return measured.fresh
