"""Dropout rates after pruning (Han et al. 2015, eq. 2)."""

import pytest
import torch
from torch import nn

import tersenet.prune  # noqa: F401
from tersenet.core.stage import parse_stage
from tersenet.prune.dropout import rescaled


def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Dropout2d(0.1), nn.Flatten(), nn.Linear(16, 10), nn.Dropout(0.5), nn.Linear(10, 4)
    )


@pytest.fixture
def context(toy_context):
    return toy_context((torch.randn(2, 1, 4, 4),), torch.randn(2, 4))


def prune(model, context, **options):
    return parse_stage({"method": "prune.magnitude", "rescale_dropout": True, **options}).apply(model, context)


def test_formula():
    assert rescaled(0.5, 25, 100) == 0.25
    assert rescaled(0.5, 100, 100) == 0.5


def test_each_rate_goes_by_the_layer_it_feeds(context):
    model = prune(net(), context, sparsity={"3": 0.75, "5": 0.9})
    assert model[1].p == pytest.approx(0.1 * 0.25**0.5)
    assert model[4].p == pytest.approx(0.5 * 0.1**0.5)
    assert "rescale_dropout: '4' from 0.5 to 0.158, for '5'" in context.notes


def test_a_layer_that_is_not_pruned_keeps_its_rate(context):
    model = prune(net(), context, sparsity={"0": 0.5})
    assert (model[1].p, model[4].p) == (0.1, 0.5)


def test_rounds_start_from_the_rate_before_the_stage(context):
    training = {"steps": 1, "lr": 0.01}
    rates = []
    context.watch = lambda model: rates.append(model[4].p)
    model = prune(net(), context, sparsity=0.75, schedule="iterative", steps=2, finetune=training)
    assert rates == pytest.approx([0.5 * 0.5**0.5, 0.25])
    prune(model, context, sparsity=0.9)
    assert model[4].p == pytest.approx(0.5 * 0.1**0.5), "two stages compose"


def test_dropout_at_the_end_goes_by_the_layer_before(context):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Dropout(0.4))
    assert prune(model, context, sparsity=0.75)[2].p == pytest.approx(0.2)


def test_a_model_without_dropout_is_told(context):
    prune(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), context, sparsity=0.75)
    assert context.notes == ["rescale_dropout: the model has no dropout module, so no rate was changed"]
