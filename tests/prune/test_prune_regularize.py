"""prune.regularize: solutions of independent solvers, exact zeros that last, and errors told in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, MultiTaskLasso
from torch import nn

import tersenet
import tersenet.prune
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.flow.progress import Quiet
from tersenet.forms import Masked, check_order, form_of, match

SGD = {"optimizer": "sgd", "momentum": 0, "schedule": "constant", "objective": "mse"}


def stage(**options):
    return parse_stage({"method": "prune.regularize", **options})


def regression(samples=80, features=10, outputs=3, informative=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, generator=generator)
    truth = torch.zeros(features, outputs)
    truth[:informative] = torch.randn(informative, outputs, generator=generator)
    return x, x @ truth + 0.3 * torch.randn(samples, outputs, generator=generator)


def linear(features, outputs):
    torch.manual_seed(0)
    return nn.Linear(features, outputs, bias=False)


def reference(x, y, alpha=0.3):
    """Independent: sklearn's coordinate descent on (1/2n)‖Y − XW‖² + α·Σ‖row of W‖. Mean squared error over n·T
    entries is 2/T of its first term, so that λ is 2α/T."""
    solver = MultiTaskLasso(alpha, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(
        x.double().numpy(), y.double().numpy()
    )
    return solver.coef_, 2 * alpha / y.shape[1]


@pytest.mark.parametrize("family", ["channels", "shapes"])
def test_columns_are_those_of_multi_task_lasso(toy_context, family):
    x, y = regression()
    expected, strength = reference(x, y)
    model = linear(10, 3)
    stage(penalty={family: strength}, training={"steps": 600, "lr": 0.3, **SGD}).apply(model, toy_context((x,), y))
    ours = model.weight.detach().numpy()
    assert ((ours != 0).any(0) == (expected != 0).any(0)).all() and not (expected != 0).any(0).all()
    assert np.abs(ours - expected).max() <= 1e-3


@pytest.mark.parametrize(
    ("form", "optimizer"),
    [
        ("proximal", {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1}),
        ("proximal", {"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "lr": 0.1, "warmup": 0.1}),
        ("subgradient", {"optimizer": "sgd", "momentum": 0.9, "lr": 0.02}),
        ("subgradient", {"optimizer": "adam", "lr": 0.02}),
    ],
)
def test_so_they_are_with_momentum_and_a_schedule(tmp_path, form, optimizer):
    """In the real loop. Were momentum left out of the proximal step, λ would be ten times too small."""
    x, y = regression()
    expected, strength = reference(x, y)
    options = {"threshold": 0.02} if form == "subgradient" else {}
    training = {"steps": 1000, "batch_size": 80, "objective": "mse", **optimizer}
    recipe = {
        "stages": [
            {"method": "prune.regularize", "form": form, "penalty": {"channels": strength}, "training": training}
            | options
            | {"warmup": 0.2}
        ]
    }
    model = linear(10, 3)
    tersenet.compress(model, recipe, {"train": (x, y), "validation": (x, y), "test": (x, y)}, out=tmp_path)
    ours = model.weight.detach().numpy()
    assert ((ours != 0).any(0) == (expected != 0).any(0)).all()
    assert np.abs(ours - expected).max() <= 1e-3


@pytest.mark.parametrize("form", ["proximal", "subgradient"])
def test_the_strength_rises_over_the_warmup(toy_context, form):
    """With no gradient of its own, a norm falls by rate · λ · (0 + 0.2 + … + 0.8 + 5 · 1) in ten steps."""
    model, context = linear(4, 1), toy_context((torch.zeros(2, 4),), torch.zeros(2, 1))
    before = float(model.weight.detach().norm())
    training = {"steps": 10, "lr": 0.1, **SGD}
    stage(penalty={"filters": 0.2}, form=form, warmup=0.5, training=training).apply(model, context)
    assert before - float(model.weight.detach().norm()) == pytest.approx(0.1 * 0.2 * 7, rel=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_rows_satisfy_the_optimality_conditions(toy_context, scaled):
    """∇L = −λ·w/‖w‖ on rows that stand, ‖∇L‖ ≤ λ on rows that are zero."""
    x, y = regression(outputs=4)
    y[:, 1] *= 0.1
    context, model, strength = toy_context((x,), y), linear(10, 4), 0.2
    training = {"steps": 600, "lr": 0.3, **SGD}
    stage(penalty={"filters": strength}, scaled_by_size=scaled, training=training, mask=False).apply(model, context)
    strength *= 10**0.5 if scaled else 1
    (gradient,) = torch.autograd.grad(context.loss(model), model.weight)
    rows = model.weight.detach()
    assert not rows[1].any() and rows.any(dim=1).any()
    for row, slope in zip(rows, gradient, strict=True):
        if row.any():
            assert torch.allclose(slope, -strength * row / row.norm(), atol=1e-4)
        else:
            assert float(slope.norm()) <= strength


def test_a_whole_layer_goes_by_depth(toy_context):
    """A residual branch that the target does not need."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.way = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return self.way(x + self.branch(x))

    torch.manual_seed(0)
    model, x = Residual(), torch.randn(64, 4)
    context = toy_context((x,), x @ torch.randn(4, 4))
    stage(penalty={"depth": {"branch": 0.2}}, training={"steps": 300, "lr": 0.2, **SGD}).apply(model, context)
    assert not model.branch.weight.any() and model.way.weight.all()
    assert "branch: 0 of 4 rows, 0 of 4 columns left" in context.notes
    assert not any("nothing passes" in note for note in context.notes)
    assert "way.weight is left as it is, since no penalty is given for it" in context.notes


class Scaled(nn.Module):
    """Standardised features times γ, summed: with L1 on γ, the lasso."""

    def __init__(self, features):
        super().__init__()
        self.bn = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.bn(x).sum(1, keepdim=True)


@pytest.mark.parametrize("option", [1.0, {"bn": 1.0}, {"BatchNorm1d": 1.0}, {"bn.weight": 1.0}])
def test_l1_on_gamma_is_the_lasso(toy_context, option):
    x, y = regression(outputs=1)
    standard = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()).numpy()
    solver = Lasso(0.15, tol=1e-10, max_iter=100_000).fit(standard.astype(float), y[:, 0].double().numpy())
    strength = 0.3 if option == 1.0 else dict.fromkeys(option, 0.3)
    model, context = Scaled(10), toy_context((x,), y)
    stage(penalty={"bn": strength}, training={"steps": 800, "lr": 0.1, **SGD}).apply(model, context)
    ours = model.bn.weight.detach().numpy()
    assert ((ours != 0) == (solver.coef_ != 0)).all() and 0 < (ours == 0).sum() < 10
    assert np.abs(ours - solver.coef_).max() <= 1e-3
    assert context.notes == [f"bn: {(ours != 0).sum()} of 10 γ left"]


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(6, 2)
    )


def conv_context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 1, 4, 4),), torch.randn(16, 2))


FINE = {"steps": 20, "lr": 0.05, "objective": "mse"}
STRONG = {"filters": {"3": 0.15}, "shapes": {"3": 0.05}, "bn": 0.15, "elements": {"0": 0.02, "5": 0.05}}
SOME = {"filters": {"3": 0.12}, "bn": 0.15, "elements": {"0": 0.02, "5": 0.05}}
"""No group lasso on filters before the batch norm, which makes up for any scale of theirs."""


@pytest.mark.parametrize("form", ["proximal", "subgradient"])
def test_zeros_last_through_fine_tuning_and_the_rest_learns(toy_context, form):
    context, seen = conv_context(toy_context), []
    context.watch = lambda model: seen.append({t.name: t.slots[0].weight.clone() for t in match(model)})
    training = {"steps": 150, "lr": 0.1, **SGD}
    extra = {"threshold": 0.05} if form == "subgradient" else {}
    kind = stage(penalty=STRONG, form=form, training=training, finetune=FINE, remove=False, **extra)
    model = kind.apply(conv_net(), context)
    held = match(model, ["0", "3", "5", "1.weight"])
    assert len(held) == 4
    for target in held:
        form_ = form_of(target)
        assert isinstance(form_, Masked) and not bool(form_.mask.all()), target.name
        assert bool((target.slots[0].weight != 0).eq(form_.mask).all()), target.name
    before, after = seen[149]["5.weight"], seen[-1]["5.weight"]
    assert not torch.equal(before, after)


def test_channels_that_are_zero_are_removed(toy_context):
    """The smaller network gives what the masked one gives, and what is left is held at zero where it is."""
    training = {"steps": 150, "lr": 0.1, **SGD}
    nets = {}
    for remove in (False, True):
        context = conv_context(toy_context)
        nets[remove] = stage(penalty=SOME, training=training, remove=remove).apply(conv_net(), context)
    alive = (nets[False][3].weight != 0).flatten(1).any(1)
    gammas = nets[False][1].weight != 0
    assert 0 < alive.sum() < 6 and 0 < gammas.sum() < 4
    assert nets[True][3].weight.shape[:2] == (alive.sum(), gammas.sum())
    assert nets[True][5].weight.shape == (2, alive.sum())
    assert torch.equal(nets[True][3].weight, nets[False][3].weight[alive][:, gammas])
    assert any(note.startswith("channels that are zero removed: ") for note in context.notes)
    torch.testing.assert_close(nets[True].eval()(*context.inputs), nets[False].eval()(*context.inputs))


def test_a_model_that_cannot_be_followed_keeps_its_zeros(toy_context):
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    context = conv_context(toy_context)
    model = Branching(*conv_net())
    stage(penalty=STRONG, training={"steps": 150, "lr": 0.1, **SGD}).apply(model, context)
    assert model[3].weight.shape[:2] == (6, 4)
    assert any("channels that are zero are not removed: torch.export cannot follow" in note for note in context.notes)


def test_without_mask_plain_zeros_are_left(toy_context):
    model = conv_net()
    stage(penalty=STRONG, training={"steps": 150, "lr": 0.1, **SGD}, mask=False).apply(model, conv_context(toy_context))
    for target in match(model, ["0", "3", "5", "1.weight"]):
        assert form_of(target) is None
        zeros = target.module.weight[target.module.weight == 0]
        assert len(zeros) and not bool(zeros.signbit().any())


def test_only_groups_are_held_not_entries_that_happen_to_be_zero(toy_context):
    model = linear(10, 3)
    model.weight.data[0, 0] = 0.0
    x, y = regression()
    stage(penalty={"filters": 1e-4}, training={"steps": 0, **SGD}).apply(model, toy_context((x,), y))
    assert bool(form_of(match(model)[0]).mask.all())


def test_zeros_of_an_earlier_stage_stay(toy_context):
    context, model = conv_context(toy_context), conv_net()
    parse_stage({"method": "prune.magnitude", "sparsity": 0.5}).apply(model, context)
    before = {target.name: form_of(target).mask.clone() for target in match(model)}
    stage(penalty={"filters": 0.05}, training={"steps": 50, "lr": 0.1, **SGD}, finetune=FINE).apply(model, context)
    for target in match(model):
        assert not bool((form_of(target).mask & ~before[target.name]).any())
        assert not bool(target.slots[0].weight[~before[target.name]].any())


def test_a_layer_that_is_lost_altogether_is_told(toy_context):
    context = conv_context(toy_context)
    stage(penalty={"filters": {"3": 50.0}}, training={"steps": 5, "lr": 0.1, **SGD}).apply(conv_net(), context)
    assert "3.weight is zero altogether, so nothing passes through it; lower its penalty" in context.notes


def test_frozen_weights_are_left_and_told(toy_context):
    model, context = conv_net(), conv_context(toy_context)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    options = {"penalty": {"filters": 1.0}, "training": {"steps": 5, "lr": 0.1, **SGD}}
    stage(**options).apply(model, context)
    assert torch.equal(model[0].weight, before)
    assert "0.weight is left as it is, since it is frozen (requires_grad is off)" in context.notes
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="is frozen"):
        stage(**options).apply(model, context)


class StopAt(Quiet):
    """Ctrl-C after some epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, log):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["proximal", "subgradient"])
def test_a_resumed_training_is_the_unbroken_one(tmp_path, monkeypatch, form):
    monkeypatch.setattr("tersenet.flow.context.SAVE_EVERY", 0.0)
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(64, 1, 4, 4, generator=generator), torch.arange(64) % 2)
    training = {"epochs": 6, "batch_size": 16, "optimizer": "sgd", "lr": 0.1}
    recipe = {
        "stages": [
            {"method": "prune.regularize", "form": form, "penalty": {"filters": 0.01, "bn": 0.01}, "warmup": 0.7}
            | {"training": training, "finetune": {"epochs": 3}}
        ]
    }
    splits = {"train": data, "validation": data, "test": data}
    whole = tersenet.compress(conv_net(), recipe, splits, out=tmp_path / "whole")
    for stop in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            options = {"out": tmp_path / "broken", "resume": stop > 4, "progress": StopAt(stop if stop == 4 else 4)}
            tersenet.compress(conv_net(), recipe, splits, **options)
    again = tersenet.compress(conv_net(), recipe, splits, out=tmp_path / "broken", resume=True)
    assert again.file.read_bytes() == whole.file.read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "penalty: is missing"),
        ({"penalty": {}}, "penalty: give a strength for at least one of elements"),
        ({"penalty": 0.1}, "penalty: give a strength for at least one"),
        ({"penalty": {"filter": 0.1}}, "no family 'filter'; did you mean 'filters'"),
        ({"penalty": {"filters": 0}}, "penalty: filters: must be a number greater than 0, not 0"),
        ({"penalty": {"filters": float("nan")}}, "not nan"),
        ({"penalty": {"bn": {"bn1": -1}}}, "penalty: bn: for 'bn1' it must be a number greater than 0, not -1"),
        ({"penalty": {"filters": {}}}, "filters for no layer at all"),
        ({"penalty": {"filters": 1}, "threshold": 0.1}, "'threshold' belongs to form 'subgradient'"),
        ({"penalty": {"filters": 1}, "form": "subgradient", "threshold": 0}, "greater than 0"),
        ({"penalty": {"filters": 1}, "training": {"steps": 1}}, "needs a training with optimizer 'sgd', not 'adam'"),
        ({"penalty": {"filters": 1}, "mask": False, "finetune": {"steps": 1}}, "'finetune' needs 'mask: true'"),
        ({"penalty": {"filters": 1}, "warmup": 1.0}, "warmup: input should be less than 1"),
        ({"penalty": {"filters": 1}, "lambda": 1.0}, "unknown key 'lambda'"),
    ],
)
def test_contradictions_are_told_when_the_recipe_is_read(options, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        parse_stage({"method": "prune.regularize", "training": {"steps": 1, **SGD}, **options}, ("stages", 0))
    assert str(caught.value).startswith("stages[0]") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"penalty": {"filters": {"conv9": 1.0}}}, "penalty.filters: 'conv9' matches no weight"),
        ({"penalty": {"filters": {"0": 1.0, "Conv2d": 1.0}}}, "0.weight is given twice"),
        ({"penalty": {"bn": {"bn7": 1.0}}}, "penalty.bn: 'bn7' matches no batch norm"),
        ({"penalty": {"bn": {"1": 1.0, "BatchNorm2d": 1.0}}}, "1.weight is given twice"),
        ({"penalty": {"bn": 1.0}, "ignore": ["1.weight"]}, "'ignore' leaves out every batch norm"),
        ({"penalty": {"filters": 1.0}, "targets": ["1.weight"]}, "has one dimension"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_training(options, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        check_order([stage(training={"steps": 1, **SGD}, **options)], conv_net())
    assert str(caught.value).startswith("stages[0]: ") and "\n" not in str(caught.value)


def test_two_families_may_name_the_same_weight_by_different_patterns():
    options = {"filters": {"0": 1.0}, "channels": {"Conv2d": 1.0}, "bn": {"1": 1.0}}
    check_order([stage(training={"steps": 1, **SGD}, penalty=options)], conv_net())


def test_no_batch_norm_is_told():
    with pytest.raises(RecipeError, match=r"penalty.bn: the model has no batch norm"):
        check_order([stage(training={"steps": 1, **SGD}, penalty={"bn": 1.0})], linear(3, 2))
