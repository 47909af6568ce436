"""Weights that come back (Dynamic Network Surgery, arXiv 1608.04493)."""

import pytest
import torch
from torch import nn

import tersenet.prune  # noqa: F401
from tersenet.core.stage import parse_stage
from tersenet.forms import form_of, latent_of, match
from tersenet.prune.criteria import CRITERIA
from tersenet.prune.masks import Masks


def prune(model, context, **options):
    return parse_stage({"method": "prune.magnitude", **options}).apply(model, context)


class Single(nn.Module):
    """y = w·x over three inputs, of which the target needs the one that starts smallest."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1, bias=False)
        self.fc.weight.data = torch.tensor([[1.0, 0.9, 0.1]])

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize("splice", [True, False])
def test_splicing_brings_back_what_was_wrongly_pruned(toy_context, splice):
    """Dynamic Network Surgery's point: pruned at first, the entry the target needs grows and returns."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    context = toy_context((x,), 2.0 * x[:, 2:])
    extra = {"splice": True, "frequency": 5} if splice else {}
    training = {"steps": 200, "lr": 0.05, "optimizer": "sgd"}
    model = prune(Single(), context, sparsity=2 / 3, finetune=training, **extra)
    weight = model.fc.weight.detach()
    if splice:
        assert weight.tolist() == [[0.0, 0.0, pytest.approx(2.0, abs=1e-3)]]
    else:
        assert weight[0, 2] == 0 and weight[0, 1] == 0


def test_splicing_never_gives_back_what_an_earlier_stage_pruned(toy_context):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    context = toy_context((x,), 2.0 * x[:, 2:])
    model = prune(Single(), context, sparsity=1 / 3)
    assert model.fc.weight[0, 2] == 0
    training = {"steps": 200, "lr": 0.05, "optimizer": "sgd"}
    prune(model, context, sparsity=2 / 3, splice=True, frequency=5, finetune=training)
    assert model.fc.weight[0, 2] == 0 and int(model.fc.weight.count_nonzero()) == 1


def test_a_pruned_weight_must_clear_the_margin_to_come_back():
    """Dynamic Network Surgery, eq. 3: below a pruned, above b kept, between them as before."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.9, 0.5, 0.1]])
    masks = Masks(match(layer), CRITERIA["magnitude"], lambda name: torch.Generator(), print, margin=0.1)
    masks.update({"weight": 2})
    masks.open()
    latent, form = latent_of(match(layer)[0]).data, form_of(match(layer)[0])
    latent[0, 2] = 0.95  # among the two largest, whose lower one, a, is itself: b = 1.045
    masks.update({"weight": 2}, splicing=True)
    assert form.mask.tolist() == [[True, False, False, False]]
    latent[0, 2] = 1.2  # now a = 1.0 and b = 1.1
    masks.update({"weight": 2}, splicing=True)
    assert form.mask.tolist() == [[True, False, True, False]]
    latent[0, 0] = 0.97  # between a and b, and kept: it stays
    masks.update({"weight": 2}, splicing=True)
    assert form.mask.tolist() == [[True, False, True, False]]
