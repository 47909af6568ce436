"""The objective that a run's losses are stated in, and whether model and data suit it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from tersenet.core.errors import DataError
from tersenet.core.factory import reason
from tersenet.core.recipe import Recipe
from tersenet.core.stage import Stage
from tersenet.core.training import Training
from tersenet.data import Batch, Splits
from tersenet.measure.accuracy import evaluate
from tersenet.train.objectives import objective_for, output_of


def loss_of(recipe: Recipe) -> Training:
    """The training whose objective losses are stated in: the recipe's own, or that of its first stage that trains."""
    return next(trainings(recipe), Training(epochs=0)).model_copy(update={"label_smoothing": 0.0})


def trainings(recipe: Recipe) -> Iterator[Training]:
    """The recipe's own, and those of its stages."""
    if recipe.train is not None:
        yield recipe.train
    for stage in recipe.stages:
        yield from trainings_of(stage)


def trainings_of(stage: Stage) -> Iterator[Training]:
    found = (getattr(stage, name, None) for name in ("training", "finetune"))
    yield from (training for training in found if training is not None)


def check_objective(recipe: Recipe, model: nn.Module, splits: Splits) -> None:
    """Raises DataError if the objective cannot compare what the model returns with the targets of the data."""
    training, batch = loss_of(recipe), splits.train.example()
    loss = objective_for(training)
    if batch.target is None:
        raise DataError(f"{splits.name}: train has no target that objective '{training.objective}' could be taken from")
    device = next((tensor.device for tensor in model.state_dict().values()), "cpu")
    try:
        evaluate(model, _Once(batch), loss, output_of, device)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        kind = f"{str(batch.target.dtype).removeprefix('torch.')} {list(batch.target.shape)}"
        raise DataError(
            f"{splits.name}: objective '{training.objective}' cannot take targets of type {kind}: {reason(error)}"
        ) from error


@dataclass(frozen=True)
class _Once:
    """A source of one batch."""

    batch: Batch

    def batches(self, batch_size: int) -> Iterator[Batch]:
        yield self.batch
