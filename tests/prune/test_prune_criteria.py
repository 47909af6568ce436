"""Criteria against gradients and Hessians by hand, brute force and worked examples of the literature."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.forms import Masked, attach, match, weights
from tersenet.prune import CRITERIA, Evidence, Scoring, Statistics, per_filter


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(10, 3).double(),), torch.randn(10, 2).double())


def score(name, model, context, **options):
    """{weight: scores}."""
    targets = match(model)
    statistics = Statistics(model, targets, context, Scoring(**options))
    return {
        t.name: CRITERIA[name](t.module.weight.detach(), torch.Generator(), Evidence(t, statistics)) for t in targets
    }


def batch_gradients(model, context, size):
    """{weight: [batches, …]} by plain autograd."""
    found = {"0.weight": [], "2.weight": []}
    for first in range(0, 10, size):
        x, y = context.inputs[0][first : first + size], context.target[first : first + size]
        loss = (model(x) - y).square().mean()
        for name, g in zip(found, torch.autograd.grad(loss, [model[0].weight, model[2].weight]), strict=True):
            found[name].append(g)
    return {name: torch.stack(values) for name, values in found.items()}


SIZES = {4: [4, 4, 2], 10: [10], 1: [1] * 10}


@pytest.mark.parametrize("size", SIZES)
def test_first_order_and_fisher_are_sums_over_all_batches(context, size):
    model = net()
    gradients, shares = batch_gradients(model, context, size), torch.tensor(SIZES[size]) / 10
    for name, g in gradients.items():
        weight = model.get_parameter(name).detach()
        mean = (g * shares[:, None, None]).sum(0)
        fisher = g.square().mean(0)
        expected = {
            "taylor": (mean * weight).abs(),
            "taylor_squared": (g * weight).square().mean(0),
            "obd_fisher": 0.5 * fisher * weight**2,
            "ewc": fisher,
        }
        for criterion, values in expected.items():
            found = score(criterion, model, context, batch_size=size, batches=None)[name]
            torch.testing.assert_close(found, values)


def test_only_as_many_batches_as_asked_for(context):
    g = batch_gradients(net(), context, 4)["0.weight"]
    torch.testing.assert_close(
        score("ewc", net(), context, batch_size=4, batches=2)["0.weight"], g[:2].square().mean(0)
    )


def test_memory_aware_synapses_by_finite_differences(context):
    """One example at a time: mean |∂‖F(x)‖²/∂w|."""
    model, step = net(), 1e-6
    found = score("mas", model, context, batch_size=1)["2.weight"]
    expected = torch.zeros(2, 4).double()
    for place in itertools.product(range(2), range(4)):
        outputs = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            moved[2].weight.data[place] += sign * step
            outputs.append(moved(context.inputs[0]).square().sum(1))
        expected[place] = ((outputs[0] - outputs[1]) / (2 * step)).abs().mean()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-8)


def hessian(model, context):
    """Of all weights together, by double backpropagation of each entry."""
    names = ("0.weight", "2.weight")
    state = {key: value.detach() for key, value in model.named_parameters()}

    def loss(flat):
        parts = flat.split([state[name].numel() for name in names])
        moved = {name: part.view_as(state[name]) for name, part in zip(names, parts, strict=True)}
        output = functional_call(model, {**state, **moved}, (context.inputs[0],))
        return (output - context.target).square().mean()

    return torch.autograd.functional.hessian(loss, torch.cat([state[name].reshape(-1) for name in names]))


def test_hutchinson_tends_to_the_exact_diagonal(context):
    """z ⊙ Hz has the mean h_ii and the variance Σ_{j≠i} h_ij²."""
    model, probes = net(), 4000
    found = Statistics(model, match(model), context, Scoring(probes=probes)).hessian
    estimate, exact = torch.cat([value.reshape(-1) for value in found.values()]), hessian(model, context)
    deviation = ((exact.square().sum(1) - exact.diagonal().square()) / probes).sqrt()
    assert ((estimate - exact.diagonal()).abs() < 4.5 * deviation).all()
    assert deviation.max() < 0.1 * exact.diagonal().max(), "a bound that says something"
    scores = score("obd_hutchinson", model, context, probes=probes)["2.weight"]
    torch.testing.assert_close(scores, 0.5 * found["2.weight"] * model[2].weight.detach() ** 2)


class Quadratic(nn.Module):
    """A single weight, for losses that are quadratic in it."""

    def __init__(self, weight):
        super().__init__()
        self.fc = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
        self.fc.weight.data = weight.clone()

    def forward(self, x):
        return self.fc(x)


class QuadraticContext:
    """L(w) = ½ (w − a)ᵀH(w − a) over the flat weight."""

    def __init__(self, matrix, optimum):
        self.matrix, self.optimum = matrix, optimum

    def batches(self, split, count, batch_size):
        for _ in range(2):
            yield (torch.zeros(3, self.optimum.shape[1]).double(),), torch.zeros(3)

    def loss(self, model, batch):
        offset = (model.fc.weight - self.optimum).reshape(-1)
        return 0.5 * offset @ self.matrix @ offset

    def generator(self, *purpose):
        return torch.Generator().manual_seed(0)


def test_one_probe_is_exact_where_the_hessian_is_diagonal():
    diagonal = torch.rand(6).double() + 0.1
    weight = torch.randn(2, 3).double()
    context = QuadraticContext(torch.diag(diagonal), weight)
    found = score("obd_hutchinson", Quadratic(weight), context, probes=1)["fc.weight"]
    torch.testing.assert_close(found, 0.5 * diagonal.reshape(2, 3) * weight**2)


@pytest.mark.parametrize("block", [4, 5, 12, 64])
def test_woodbury_is_the_inverse_of_each_damped_block(context, block):
    """Blocks of a weight of 12 entries; 5 does not divide them."""
    model = net()
    statistics = Statistics(model, match(model), context, Scoring(batch_size=2, block=block, damping=0.01))
    g = batch_gradients(model, context, 2)["0.weight"].flatten(1)
    fisher = 0.01 * torch.eye(12).double() + g.T @ g / len(g)
    expected = torch.cat(
        [torch.linalg.inv(fisher[p, p]).diagonal() for f in range(0, 12, block) for p in [slice(f, f + block)]]
    )
    found = Evidence(match(model)[0], statistics).inverse
    torch.testing.assert_close(found.diagonal(torch.Size([4, 3])).reshape(-1), expected)
    weight = model[0].weight.detach()
    scores = score("obs", model, context, batch_size=2, block=block, damping=0.01)["0.weight"]
    torch.testing.assert_close(scores, weight**2 / (2 * expected.view(4, 3)))


def test_frozen_and_masked_weights_have_gradients_too(context):
    model = net()
    expected = batch_gradients(model, context, 10)["0.weight"][0].abs()
    model[0].weight.requires_grad_(False)
    target = match(model)[0]
    mask = torch.ones(4, 3, dtype=torch.bool)
    attach(target, Masked(mask))
    found = Statistics(model, (target,), context).gradient["0.weight"].abs()
    torch.testing.assert_close(found, expected)
    assert not target.module.parametrizations.weight.original.requires_grad


class Restless(nn.Module):
    """Batch norm, dropout, a buffer that counts calls even in eval mode, and noise."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.out = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.out(self.drop(torch.relu(self.norm(self.fc(x))))) + 0.01 * torch.randn(len(x), 2)


@pytest.mark.parametrize("name", ["taylor", "obd_hutchinson", "obs", "mas", "apoz", "bn_scale"])
def test_the_model_is_left_as_it_was(toy_context, name):
    torch.manual_seed(0)
    model = Restless().train()
    model.drop.eval()
    model.fc.weight.grad = torch.ones(4, 3)
    model.out.weight.requires_grad_(False)
    context = toy_context((torch.randn(8, 3),), torch.randn(8, 2))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    target = match(model)[0]

    def scores():
        evidence = Evidence(target, Statistics(model, [target], context))
        return CRITERIA[name](model.fc.weight.detach(), torch.Generator(), evidence)

    first = scores()
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(9)  # what the model draws itself does not depend on what was drawn before
    again, random = scores(), torch.get_rng_state()
    assert torch.equal(random, torch.manual_seed(9).get_state())
    assert torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and model.norm.training and not model.drop.training
    assert torch.equal(model.fc.weight.grad, torch.ones(4, 3)) and model.fc.bias.grad is None
    assert model.fc.weight.requires_grad and not model.out.weight.requires_grad
    assert torch.is_grad_enabled()
    assert not model.fc._forward_hooks


def test_no_batches_and_infinite_gradients_are_told(toy_context):
    model = net()
    with pytest.raises(DataError, match="there are none"):
        score("taylor", model, toy_context((torch.zeros(0, 3).double(),), torch.zeros(0, 2).double()))
    wild = toy_context((torch.full((4, 3), torch.inf).double(),), torch.zeros(4, 2).double())
    with pytest.raises(ModelError, match=r"0\.weight: gradients or activations on the data are NaN or infinite"):
        score("taylor", nn.Sequential(nn.Linear(3, 2)).double(), wild)


def test_movement_from_the_run_or_from_a_file(context, tmp_path):
    model = net()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RecipeError, match=r"'train' is missing\); name a file"):
        score("movement", model, context)
    with torch.no_grad():
        model[0].weight += torch.arange(12).view(4, 3) - 6.0
    context.initial = {target.name: start[target.name] for target in weights(model)}
    expected = (torch.arange(12).view(4, 3).double() - 6).abs()
    torch.testing.assert_close(score("movement", model, context)["0.weight"], expected)
    torch.save(start, tmp_path / "start.pt")
    context.initial = None
    attach(match(model)[1], Masked(torch.ones(2, 4, dtype=torch.bool)))  # a form does not change the names
    torch.testing.assert_close(
        score("movement", model, context, initial=str(tmp_path / "start.pt"))["0.weight"], expected
    )
    context.initial = {"0.weight": torch.zeros(5, 3), "2.weight": torch.zeros(2, 4)}
    with pytest.raises(RecipeError, match=r"0\.weight had another shape at the start"):
        score("movement", model, context)


@pytest.mark.parametrize("kind", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2), nn.Linear(5, 7)], ids=repr)
def test_geometric_median_by_brute_force(kind, toy_context):
    model = nn.Sequential(kind)
    weight = kind.weight.detach()
    filters = list(weight.transpose(0, 1) if isinstance(kind, nn.ConvTranspose2d) else weight)
    expected = [sum(float((a.double() - b.double()).square().sum().sqrt()) for b in filters) for a in filters]
    found = score("fpgm", model, None)["0.weight"]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_norms_over_filters():
    """L1, L2² and Lp^p of each row."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, -2.0], [1.0, -5.0]])
    (target,) = match(nn.Sequential(layer))
    evidence = Evidence(target, Statistics(layer, [target], None, Scoring(p=3)))
    found = {n: CRITERIA[n](layer.weight.detach(), None, evidence) for n in ("l1", "l2", "lp", "magnitude")}
    assert per_filter(target, found["l1"]).tolist() == [5, 6] == per_filter(target, found["magnitude"]).tolist()
    assert per_filter(target, found["l2"]).tolist() == [13, 26]
    assert per_filter(target, found["lp"]).tolist() == [35, 126]
    assert per_filter(target, found["l1"], "l2").tolist() == pytest.approx([13**0.5, 26**0.5])
    assert per_filter(target, found["l1"], "mean").tolist() == [2.5, 3]
