"""factorize.decay: the proximal step is the minimiser, and ranks of what is learned fall to what the data need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tersenet.factorize.decay  # noqa: F401
from tersenet.core.errors import RecipeError
from tersenet.core.stage import parse_stage
from tersenet.factorize.conv import refold, unfold
from tersenet.factorize.decay import rank_of, shrunk

SGD = {"optimizer": "sgd", "steps": 300, "lr": 0.05, "momentum": 0, "schedule": "constant"}


def decay(model: nn.Module, context: Any, **options: Any) -> Any:
    return parse_stage({"method": "factorize.decay", "finetune": SGD, **options}).apply(model, context)


def test_the_step_minimises_distance_and_nuclear_norm() -> None:
    """Against the condition of optimality, (W − X)/t in the subdifferential of the nuclear norm at X (Watson 1992):
    U Vᵀ on the range of X, spectral norm at most 1 beside it."""
    torch.manual_seed(0)
    w = torch.randn(6, 9, dtype=torch.float64)
    x = shrunk(w, 2.0)
    rank = rank_of(x)
    assert 0 < rank < 6
    u, _, vh = torch.linalg.svd(x)
    gradient = (w - x) / 2.0
    inside = u[:, :rank] @ vh[:rank]
    beside = gradient - inside
    torch.testing.assert_close(u[:, :rank].mT @ beside, torch.zeros(rank, 9, dtype=torch.float64))
    assert float(torch.linalg.matrix_norm(beside, 2)) <= 1


@pytest.mark.parametrize("kind", ["svd", "channel", "spatial"])
def test_a_weight_comes_back_from_its_matrix(kind: str) -> None:
    weight = torch.randn(4, 3, 2, 5)
    assert torch.equal(refold(kind, unfold(kind, weight)[0], weight.shape), weight)


def test_one_step_each_few_steps_with_the_rates_between(toy_context: Any) -> None:
    """No gradient: after 7 steps at rate 0.1 with `every` 3, singular values have lost 0.7·λ/(1 − μ)."""
    model = nn.Sequential(nn.Linear(5, 5))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])))  # type: ignore[operator]
    context = toy_context((torch.zeros(4, 5),), torch.zeros(4, 5))
    training = {**SGD, "steps": 7, "lr": 0.1, "momentum": 0.5}
    decay(model, context, strength=1.0, every=3, finetune=training)
    found = torch.linalg.svdvals(model[0].weight.detach())
    torch.testing.assert_close(found, torch.tensor([3.6, 2.6, 1.6, 0.6, 0.0]), atol=1e-5, rtol=0)
    assert context.notes == ["0.weight: rank 4 of 5 is left"]


@pytest.mark.parametrize("kind", ["svd", "spatial"])
def test_the_rank_falls_to_that_of_the_task(toy_context: Any, kind: str) -> None:
    torch.manual_seed(0)
    layer: Any = nn.Linear(8, 6) if kind == "svd" else nn.Conv2d(2, 3, 3)
    x = torch.randn(200, 8) if kind == "svd" else torch.randn(60, 2, 5, 5)
    planted = layer.weight.detach() * 0
    for _ in range(2):
        planted += (
            torch.outer(torch.randn(6), torch.randn(8))
            if kind == "svd"
            else torch.einsum("ci,nj->ncij", torch.randn(2, 3), torch.randn(3, 3))
        )
    with torch.no_grad():
        y = x @ planted.T if kind == "svd" else torch.nn.functional.conv2d(x, planted)
    model, context = nn.Sequential(layer), toy_context((x,), y)
    decay(model, context, decomposition=kind, strength=0.02, finetune={**SGD, "lr": 0.3})
    assert context.notes[-1].startswith("0.weight: rank 2 of 6 is left")
    assert context.evaluate(model)["loss"] < 0.05 * float(y.square().mean())
    parse_stage({"method": "factorize.low_rank", "decomposition": kind, "rank": 2}).apply(model, context)
    assert float(context.notes[-2].split("relative ")[1].split(";")[0]) < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 0}, "greater than 0"),
        ({"strength": 1, "finetune": {"steps": 1}}, "need optimizer 'sgd', not 'adam'"),
        ({"strength": {"1": 0.1}}, "the rank of 1.weight cannot fall: it is frozen"),
        ({"strength": 0.1, "targets": ["2.weight"]}, "2.weight cannot fall: a BatchNorm1d"),
    ],
    ids=str,
)
def test_mistakes(toy_context: Any, options: dict[str, Any], words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    with pytest.raises(RecipeError, match=words):
        decay(model, toy_context((torch.zeros(4, 4),), torch.zeros(4, 4)), **options)


def test_what_is_not_meant_is_told(toy_context: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    context = toy_context((torch.randn(4, 4),), torch.zeros(4, 4))
    decay(model, context, strength={"0": 0.1}, finetune={**SGD, "steps": 2})
    assert context.notes[0] == "1.weight is left as it is: no strength is given for it"
