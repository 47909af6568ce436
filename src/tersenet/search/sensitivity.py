"""Sensitivity of each layer: validation error against the share of it that is pruned, with all other layers dense and
nothing trained afterwards (Li et al. 2017, arXiv 1608.08710, §3.2; Han et al. 2015, arXiv 1506.02626, §4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import Recipe, canonical_digest
from tersenet.core.registry import nearest
from tersenet.core.sensitivity import Cell, LayerCurve, Sensitivity
from tersenet.data import Splits, check_fits
from tersenet.flow.context import Context, fabric_for
from tersenet.flow.files import RunFolder
from tersenet.flow.objective import check_objective, loss_of
from tersenet.flow.origin import first_key, state_digest
from tersenet.flow.progress import Progress, Quiet
from tersenet.forms import Target, form_of, match, weights
from tersenet.search.cells import Cells
from tersenet.search.trial import GRANULARITIES, pruned
from tersenet.train.checkpoint import CheckpointStore


def scan(
    recipe: Recipe,
    model: nn.Module,
    splits: Splits,
    folder: Path,
    *,
    ratios: Sequence[float],
    targets: Sequence[str] = (),
    granularity: str = "element",
    resume: bool = False,
    progress: Progress | None = None,
) -> Sensitivity:
    """Train `model` as `recipe` says (or load that training from the folder of a run), then prune one layer at a time.

    ratios: shares in [0, 1). targets: patterns as in a stage; none: all linear, convolution and embedding layers.
    folder: of a run; every measurement is kept there and, with `resume`, not made again. Trainings in it that have the
    same beginning as this one are always used.

    Raises RecipeError, DataError or ModelError before anything is trained if these do not fit together, if nothing
    trains the model, or if the task has no classes to count errors on.
    """
    _check(recipe, ratios, granularity)
    chosen = _targets(model, targets)
    if splits.classes is None:
        raise DataError(f"{splits.name}: has no classes, so there is no error to measure sensitivity by")
    check_fits(model, splits)
    check_objective(recipe, model, splits)
    fabric = fabric_for(recipe.runtime)
    with RunFolder(folder, recipe, True, fabric.is_global_zero) as place:
        fabric.barrier()
        key = first_key(recipe, model, splits)
        store = CheckpointStore(place.checkpoints)
        context = Context(splits, fabric, recipe.seed, store, key, loss_of(recipe), progress or Quiet())
        model = model.to(fabric.device)
        context.enter("train", recipe.train.to_dict() if recipe.train else None)  # the key of `compress`
        if recipe.train:
            context.finetune(model, recipe.train)
        context.enter("sensitivity", [granularity, state_digest(model)])
        cells = Cells(folder / "sensitivity", resume, fabric.is_global_zero)
        fabric.barrier()  # the first process may have cleared old ones
        dense = _dense(model, context)
        curves = tuple(_curve(model, target, ratios, granularity, dense, context, cells) for target in chosen)
    return Sensitivity(
        recipe=recipe.to_dict(),
        recipe_hash=recipe.digest(),
        data=splits.name,
        data_digest=splits.digest,
        seed=recipe.seed,
        granularity=granularity,
        examples=int(dense["examples"]),
        dense_error=dense["error"],
        dense_loss=dense["loss"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=curves,
    )


def _curve(
    model: nn.Module,
    target: Target,
    ratios: Sequence[float],
    granularity: str,
    dense: dict[str, float],
    context: Context,
    cells: Cells,
) -> LayerCurve:
    """One layer at every ratio: read where it was measured before, else measured and kept."""
    found = []
    for ratio in sorted(set(ratios)):
        key = canonical_digest([context.key, target.name, ratio])
        cell = cells.load(key)
        if cell is None:
            with pruned(target, ratio, granularity) as zeros:
                scores = context.evaluate(model) if ratio else dense
            cell = Cell(ratio=ratio, zeros=zeros, error=scores["error"], loss=scores["loss"])
            cells.save(key, cell)
        found.append(cell)
    context.progress.say(f"  {target.name}: error {', '.join(f'{100 * cell.error:.2f}' for cell in found)} %")
    name, shape = _called(target, model), target.shape
    return LayerCurve(layer=name, name=target.name, shape=shape, parameters=math.prod(shape), cells=tuple(found))


def _called(target: Target, model: nn.Module) -> str:
    """The layer's name where it means this weight alone, else the weight's."""
    layer = target.slots[0].layer
    return layer if layer and [t.name for t in weights(model) if t.matches(layer)] == [target.name] else target.name


def _dense(model: nn.Module, context: Context) -> dict[str, float]:
    scores = context.evaluate(model)
    if "error" not in scores:
        raise DataError(f"{context.splits.name}: has no classes, so there is no error to measure sensitivity by")
    return scores


def _check(recipe: Recipe, ratios: Sequence[float], granularity: str) -> None:
    if granularity not in GRANULARITIES:
        raise RecipeError(f"unknown granularity '{granularity}'{nearest(granularity, GRANULARITIES)}")
    if not ratios:
        raise RecipeError("ratios: there are none; give shares from 0 to less than 1, as 0,0.1,0.2")
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise RecipeError(f"ratios: {ratio:g} is no share of a layer that can be pruned: from 0 to less than 1")
    untrained = recipe.train is None or 0 in (recipe.train.epochs, recipe.train.steps)
    if untrained and recipe.model is not None and recipe.model.name is not None and recipe.model.weights is None:
        raise RecipeError(
            f"the recipe has no 'train' and its model '{recipe.model.name}' no 'weights', so that there is nothing "
            "trained to prune; give one of them"
        )


def _targets(model: nn.Module, patterns: Sequence[str]) -> tuple[Target, ...]:
    chosen = match(model, patterns)
    for target in chosen:
        form = form_of(target)
        if form is not None:
            raise ModelError(f"{target.name} is already compressed ({form.name}); scan the model before that")
        if target.vector:
            raise RecipeError(f"{target.name} has one dimension; name layers, or weights of two and more dimensions")
    return chosen
