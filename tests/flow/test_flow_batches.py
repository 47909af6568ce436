"""What a run gives criteria: the same batches each time, its loss, and the weights before it trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tersenet.core.load import load_recipe
from tersenet.core.recipe import Recipe
from tersenet.flow.context import Context
from tersenet.flow.plan import plan
from tersenet.flow.prepare import example_inputs, prepare, prepare_model, register_methods
from tersenet.flow.run import run
from tersenet.forms import form_of, match

DEMO = Path(__file__).parents[2] / "recipes/demo/digits.yaml"


@pytest.fixture(scope="module", autouse=True)
def _methods() -> None:
    register_methods()


def recipe_with(**options: object) -> Recipe:
    plain = load_recipe(DEMO, ["train.epochs=1"]).to_dict()
    return Recipe.parse({**plain, "gate": {}, "stages": [{"method": "prune.magnitude", **options}]})


def test_a_run_gives_batches_loss_and_initial_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside a stage that prunes by movement: w₀ is what the seed builds."""
    recipe = recipe_with(sparsity=0.5, criterion="movement")
    seen: list[Context] = []
    enter = Context.enter
    monkeypatch.setattr(Context, "enter", lambda self, *rest: (seen.append(self), enter(self, *rest))[1])
    model, splits = prepare(recipe)
    outcome = run(recipe, model, splits, tmp_path)
    context, fresh = seen[0], prepare_model(recipe)
    initial = context.initial_weights()
    assert initial is not None
    assert all(torch.equal(initial[name], value) for name, value in fresh.named_parameters())

    first, again = list(context.batches("train", 2, 32)), list(context.batches("train", 2, 32))
    assert len(first) == 2 and first[0][0][0].shape[0] == 32
    assert all(torch.equal(a[0][0], b[0][0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    plain = next(iter(splits.train.batches(32)))
    assert not torch.equal(first[0][1], plain.target), "shuffled, as data may be in the order of its classes"
    assert sum(len(target) for _, target in context.batches("train")) == len(splits.train)
    assert sum(len(target) for _, target in context.batches("validation")) == len(splits.validation)
    expected = torch.nn.functional.cross_entropy(outcome.model(first[0][0][0]), first[0][1].long())
    torch.testing.assert_close(context.loss(outcome.model, first[0]), expected)


@pytest.mark.parametrize("criterion", ["taylor", "movement", "apoz", "obs"])
def test_a_dry_run_prunes_by_every_kind_of_evidence(criterion: str) -> None:
    granularity = "filter" if criterion == "apoz" else "element"
    recipe = recipe_with(sparsity=0.5, criterion=criterion, granularity=granularity)
    planned = plan(recipe, prepare_model(recipe), example_inputs(recipe))
    assert planned.nonzero < 0.55 * planned.parameters


def test_a_file_of_n_m_weights_comes_back(tmp_path: Path) -> None:
    recipe = recipe_with(granularity="n:m", targets=["fc1"])
    model, splits = prepare(recipe)
    outcome = run(recipe, model, splits, tmp_path)
    (target,) = match(model, ["fc1"])
    form = form_of(target)
    assert form is not None and form.name == "nm"
    weight = outcome.model.get_parameter("fc1.weight")
    assert torch.equal(weight, target.module.weight)
    assert int((weight.view(-1, 4) != 0).sum(1).max()) == 2
