"""What a file's model does on the data it was trained on, and how much each dense weight matters there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from tersenet import artifact
from tersenet.bounds.rate_distortion import predicted_loss_change
from tersenet.core.load import load_recipe, with_overrides
from tersenet.core.recipe import Recipe
from tersenet.core.seeds import generator
from tersenet.data import Splits, check_fits
from tersenet.flow.evaluating import data_of
from tersenet.flow.load import restore, zoo_model
from tersenet.flow.objective import loss_of
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.measure.accuracy import evaluate
from tersenet.train.gradients import fisher
from tersenet.train.objectives import Objective, objective_for, output_of

Example = tuple[tuple[torch.Tensor, ...], torch.Tensor]


@dataclass(frozen=True)
class Measured:
    """The file's model on its training data: mean loss, share of wrong answers (None: no classes).

    recipe: that which led to the data.
    likelihood: the loss is −ln p(class), so that labels can be drawn from the model, and coded by it.
    fresh: builds the network anew with weights of no meaning; None where the file's own operators are all there is.
    aliases: further names of shared tensors.
    """

    recipe: Recipe
    splits: Splits
    objective: Objective
    likelihood: bool
    loss: float
    error: float | None
    examples: int
    fresh: Callable[[], nn.Module] | None
    aliases: Mapping[str, str]

    @property
    def classes(self) -> int | None:
        """Of the labels, where each example has one and the model says how likely it is."""
        target = self.splits.train.example().target
        return self.splits.classes if self.likelihood and target is not None and target.ndim == 1 else None


def measure(path: Path, contents: artifact.Contents, recipe_path: Path | None, overrides: tuple[str, ...]) -> Measured:
    """Raises DataError if neither file nor recipe leads to the data, ArtifactError or ModelError if the file cannot be
    loaded."""
    register_methods()
    fresh: Callable[[], nn.Module] | None
    if recipe_path is not None:
        recipe = load_recipe(recipe_path, overrides)
        fresh = lambda: prepare_model(recipe)  # noqa: E731
        model = restore(contents, path, fresh())
    else:
        recipe = Recipe.parse(with_overrides(dict(contents.recipe), overrides))
        fresh = None if contents.graph else lambda: zoo_model(contents, path)
        model = restore(contents, path)
    splits = data_of(path, recipe, contents)
    check_fits(model, splits)
    training = loss_of(recipe)
    objective = objective_for(training)
    scores = evaluate(model, splits.train, objective, output_of)
    return Measured(
        recipe=recipe,
        splits=splits,
        objective=objective,
        likelihood=training.objective == "cross_entropy" and "error" in scores,
        loss=scores["loss"],
        error=scores.get("error"),
        examples=int(scores["examples"]),
        fresh=fresh,
        aliases=contents.aliases,
    )


def dense_model(measured: Measured, weights: Mapping[str, torch.Tensor], notes: list[str]) -> nn.Module | None:
    """The network with `weights`, or None, with a note, where they are not all of it."""
    model = None if measured.fresh is None else measured.fresh()
    shared = {other: weights[name] for other, name in measured.aliases.items() if name in weights}
    if model is None or set(model.state_dict()) - set(weights) - set(shared):
        notes.append("squared errors are not weighted: the dense weights at hand are not the whole network")
        return None
    model.load_state_dict({**weights, **shared})
    return model.eval()


def fisher_weights(
    measured: Measured, weights: Mapping[str, torch.Tensor], examples: int, notes: list[str]
) -> dict[str, torch.Tensor] | None:
    """Diagonal of the Fisher information of each parameter of the dense network, per example, or None with a note.

    Of classifiers, with labels drawn from the network's own answers, so that it is the curvature of the loss and not
    the scatter of its gradients (Kunstner et al. 2019, arXiv 1905.12558); of others, with the targets of the data.
    """
    model = dense_model(measured, weights, notes)
    if model is None:
        return None
    named = [(name, p) for name, p in model.named_parameters() if p.is_floating_point()]
    draws = generator(0, "fisher")

    def loss(model: nn.Module, example: Example) -> torch.Tensor:
        output = output_of(model(*example[0]))
        if not measured.likelihood:
            return measured.objective(output, example[1])
        shares = output.detach().float().softmax(1).movedim(1, -1)
        drawn = torch.multinomial(shares.reshape(-1, shares.shape[-1]), 1, generator=draws)
        return nn.functional.cross_entropy(output.float(), drawn.reshape(shares.shape[:-1]))

    found = fisher(model, [p for _, p in named], _one_by_one(measured.splits, examples), loss)
    return {name: values for (name, _), values in zip(named, found, strict=True)}


def loss_change(
    measured: Measured,
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    fisher_of: Mapping[str, torch.Tensor],
) -> tuple[float, float, float]:
    """The rise of the mean training loss that the Fisher information predicts, the dense loss, and the file's."""
    parts = (predicted_loss_change(f.numpy(), before[n].numpy(), after[n].numpy()) for n, f in fisher_of.items())
    model = dense_model(measured, before, [])
    assert model is not None  # its Fisher information was measured
    dense = evaluate(model, measured.splits.train, measured.objective, output_of)["loss"]
    return sum(parts), dense, measured.loss


def _one_by_one(splits: Splits, count: int) -> Iterator[Example]:
    """So many examples, evenly spread over the training data (which may be sorted), as they are: not augmented."""
    for batch in islice(splits.train.batches(max(1, len(splits.train) // count)), count):
        if batch.target is not None:  # or the loss could not have been measured
            yield tuple(tensor[:1] for tensor in batch.inputs), batch.target[:1]
