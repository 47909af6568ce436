"""prune.channels: which channels go, against explicit loops; what is left, against counting; published counts."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tersenet.prune.channels  # noqa: F401
from tersenet.core.errors import RecipeError
from tersenet.core.load import load_recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.plan import DryContext
from tersenet.flow.prepare import example_inputs, prepare_model, register_methods
from tersenet.measure.macs import count_macs

HERE = Path(__file__).parents[2]


def stage(**options):
    return parse_stage({"method": "prune.channels", **options})


def chain(widths=(6, 8, 10)):
    torch.manual_seed(0)
    a, b, c = widths
    net = nn.Sequential(
        *(nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU()),
        *(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()),
        *(nn.Conv2d(b, c, 3), nn.BatchNorm2d(c), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 4)),
    )
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.1, 2)
            nn.init.normal_(layer.bias)
    return net.eval()


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(8, 3, 6, 6),), torch.randn(8, 4))


def kept_filters(before, after):
    """Of each filter that is left, the number that it had: the weight tells, also when inputs have gone."""
    numbers = []
    for filter_ in after:
        fitting = [n for n, own in enumerate(before) if _within(filter_, own)]
        assert len(fitting) == 1
        numbers += fitting
    return numbers


def _within(small, large):
    """Whether every input plane of `small` is one of `large`."""
    return all(any(torch.equal(plane, own) for own in large) for plane in small)


def test_filters_with_the_smallest_l1_norm_go(context):
    net = chain()
    before = copy.deepcopy(net)
    stage(ratio=0.5).apply(net, context)
    for place in (0, 3, 6):
        norms = [float(filter_.abs().sum()) for filter_ in before[place].weight]
        stay = sorted(sorted(range(len(norms)), key=lambda n: -norms[n])[: len(norms) // 2])
        assert kept_filters(before[place].weight, net[place].weight) == stay
    assert [net[place].weight.shape[:2] for place in (0, 3, 6)] == [(3, 3), (4, 3), (5, 4)]
    assert net[11].weight.shape == (4, 5)


def test_the_smaller_network_is_the_masked_one(context):
    """The weights of filters that went are zero in it. Their biases and norms still give a constant, which is folded
    into the layer after; only before a padded convolution, whose borders it does not reach, it is zero too."""
    net = chain()
    masked, before = copy.deepcopy(net), copy.deepcopy(net)
    stage(ratio=0.5, criterion="l2").apply(net, context)
    for place in (0, 3, 6):
        stay = kept_filters(before[place].weight, net[place].weight)
        gone = [n for n in range(len(before[place].weight)) if n not in stay]
        with torch.no_grad():
            masked[place].weight[gone] = 0
            if place == 0:
                masked[3].weight[:, gone] = 0
    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(net(x), masked(x), atol=1e-5, rtol=1e-4)
    assert any("could not be folded" in note for note in context.notes)


def test_greedy_leaves_out_what_has_gone(context):
    """Li et al. 2017, §3.3: norms of later filters without the kernels of removed inputs."""
    net = chain()
    before = copy.deepcopy(net)
    stage(ratio=0.5, selection="greedy").apply(net, context)
    inputs = list(range(3))
    for place in (0, 3, 6):
        weight = before[place].weight
        norms = [float(filter_[inputs].abs().sum()) for filter_ in weight]
        stay = sorted(sorted(range(len(norms)), key=lambda n: -norms[n])[: len(norms) // 2])
        assert kept_filters(weight, net[place].weight) == stay
        inputs = stay


def test_greedy_and_independent_differ():
    """Otherwise the test above would show nothing: here the removed input carries the second filter's norm."""
    net = chain((2, 2, 2))
    with torch.no_grad():
        net[0].weight[0] = 0.1
        net[3].weight[0, :, 0, 0] = torch.tensor([9.0, 0.0])
        net[3].weight[0, :, 1:] = 0
        net[3].weight[0, :, :, 1:] = 0
        net[3].weight[1] = 0.2

    def left(selection, net=net):
        from tests.conftest import ToyContext

        net = copy.deepcopy(net)
        context = ToyContext((torch.randn(8, 3, 6, 6),), torch.randn(8, 4))
        stage(ratio=0.5, selection=selection).apply(net, context)
        return float(net[3].weight.abs().sum())

    assert left("independent") < left("greedy") == pytest.approx(9 * 0.2)


def test_global_by_gamma_is_one_ranking_of_all_gammas(context):
    """Network Slimming (Liu et al. 2017, §3): a percentile over all layers."""
    net = chain()
    gammas = {place: net[place].weight.detach().clone() for place in (1, 4, 7)}
    values = sorted(torch.cat(list(gammas.values())).tolist())
    cut = values[12]
    stage(ratio=0.5, criterion="bn_scale", scope="global").apply(net, context)
    for place, gamma in gammas.items():
        assert torch.equal(net[place].weight, gamma[gamma >= cut])
    assert sum(net[place].num_features for place in gammas) == 12


class Residual(nn.Module):
    """One group is made by three layers; a head of a fused projection is a unit of eight rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Linear(5, 8)
        self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 8)
        self.qkv, self.out = nn.Linear(8, 3 * 4 * 2), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):  # [B, L, 5]
        x = self.stem(x)
        x = x + self.down(torch.relu(self.up(x)))
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4)  # [3, B, 4, L, 2]
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("reduce", "of"), [("sum", lambda e: e.sum()), ("mean", lambda e: e.mean()), ("l2", lambda e: e.norm())]
)
def test_a_unit_is_scored_by_all_that_makes_it(toy_context, reduce, of):
    net = Residual()
    before = copy.deepcopy(net)
    context = toy_context((torch.randn(8, 3, 5),), torch.randn(8, 4))
    stage(keep=2, reduce=reduce).apply(net, context)
    makers = [before.stem.weight, before.down.weight, before.out.weight]
    stream = [float(of(torch.cat([maker[unit] for maker in makers]).abs())) for unit in range(8)]
    stay = sorted(np.argsort(stream)[-2:].tolist())
    assert torch.equal(net.stem.weight, before.stem.weight[stay])
    heads = before.qkv.weight.reshape(3, 4, 2, 8)
    scores = [float(of(heads[:, head].abs())) for head in range(4)]
    two = sorted(np.argsort(scores)[-2:].tolist())
    assert torch.equal(net.qkv.weight, heads[:, two].reshape(12, 8)[:, stay])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("what", ["macs", "parameters"])
def test_a_budget_is_met_and_not_by_more_than_a_step(context, scope, what):
    net = chain((16, 24, 20))

    def size(net):
        return count_macs(net, context.inputs[0]).total if what == "macs" else sum(p.numel() for p in net.parameters())

    dense = size(net)
    normalize = {"normalize": "mean"} if scope == "global" else {}
    stage(budget={what: 0.4}, scope=scope, **normalize).apply(net, context)
    step = 0.05 if scope == "global" else 0.12  # one unit, or one of each group
    assert 0.4 - step < size(net) / dense <= 0.4


def test_rounds_keep_the_same_share(context):
    net = chain((32, 32, 32))
    widths = []
    context.watch = lambda model: widths.append(model[3].out_channels)
    stage(ratio=0.75, schedule="iterative", steps=2, finetune={"steps": 1, "lr": 1e-4}).apply(net, context)
    assert widths == [16, 8]


def test_later_rounds_score_the_trained_network(context):
    """Training between the rounds turns the order round."""
    net = chain((8, 8, 8))

    def spoil(model):
        with torch.no_grad():
            for filter_, own in enumerate(model[3].weight):
                own.fill_(1.0 - 0.1 * filter_)

    context.watch = spoil
    stage(ratio={"3": 0.75}, schedule="iterative", steps=2, finetune={"steps": 1, "lr": 1e-6}).apply(net, context)
    assert torch.allclose(net[3].weight[:, 0, 0, 0], torch.tensor([1.0, 0.9]))


def test_multiples_and_shares_that_stay(context):
    net = chain((16, 24, 20))
    stage(ratio=0.7, multiple_of=8).apply(net, context)
    assert [net[place].out_channels for place in (0, 3, 6)] == [8, 8, 8]
    net = chain((16, 24, 20))
    stage(ratio=0.9, scope="global", criterion="random", keep_at_least=0.25).apply(net, context)
    assert [net[place].out_channels for place in (0, 3, 6)] == [4, 6, 5]


@pytest.mark.parametrize("reduce", ["sum", "mean", "l2"])
def test_at_random_each_layer_loses_about_the_same_share(context, reduce):
    """However many entries its filters have, which alone would make sums large and means alike."""
    net = chain((40, 40, 40))
    stage(ratio=0.5, scope="global", criterion="random", reduce=reduce).apply(net, context)
    left = [net[place].out_channels for place in (0, 3, 6)]
    assert sum(left) == 60 and all(12 <= count <= 28 for count in left)  # 2.6 standard deviations
    model = chain((40, 40, 40))
    options = {"sparsity": 0.5, "granularity": "filter", "scope": "global", "criterion": "random", "reduce": reduce}
    parse_stage({"method": "prune.magnitude", "targets": ["Conv2d"], **options}).apply(model, context)
    left = [int(model[place].weight.flatten(1).any(1).sum()) for place in (0, 3, 6)]
    assert sum(left) == 60 and all(12 <= count <= 28 for count in left)


def test_layers_that_share_channels_are_one_group_under_any_of_their_names(toy_context):
    context = toy_context((torch.randn(8, 3, 5),), torch.randn(8, 4))
    net = Residual()
    stage(keep={"down": 3}).apply(net, context)
    assert net.stem.out_features == net.out.out_features == 3 and net.up.out_features == 6
    with pytest.raises(RecipeError, match=r"'stem' is given 3 by 'down' and 4 by 'out'.*can only go together"):
        stage(keep={"down": 3, "out": 4}).apply(Residual(), context)


def test_what_stays_is_told(context):
    net = chain()
    stage(ratio=0.5, ignore=["0"]).apply(net, context)
    assert net[0].out_channels == 6
    assert "of the MACs are left" in context.notes[-2]
    assert context.notes[-1] == "channels left: 3 4 of 8, 6 5 of 10"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "one of 'ratio', 'keep', 'threshold' and 'budget'"),
        ({"ratio": 0.5, "keep": 3}, "'ratio' and 'keep' both say"),
        ({"ratio": 1.0}, "less than 1"),
        ({"keep": 0}, "greater than 0"),
        ({"budget": {"macs": 0.5, "parameters": 0.5}}, "one of the two"),
        ({"budget": {"time": 0.5}}, "macs"),
        ({"budget": {"macs": 1.5}}, "less than 1"),
        ({"ratio": {"0": 0.5}, "scope": "global"}, "not a number for each"),
        ({"ratio": 0.5, "normalize": "l2"}, "'normalize' belongs to scope 'global'"),
        ({"ratio": 0.5, "schedule": "iterative"}, "'steps' of 2 or more"),
        ({"ratio": 0.5, "schedule": "iterative", "steps": 2}, "needs 'finetune'"),
        ({"ratio": 0.5, "steps": 2}, "'steps' belongs to"),
        ({"ratio": 0.5, "scope": "global", "selection": "greedy"}, "greedy"),
        ({"ratio": 0.5, "criterion": "fpgm", "selection": "greedy"}, "scores whole filters"),
        ({"ratio": 0.5, "criterion": "tailor"}, "taylor"),
        ({"ratio": 0.5, "scoring": {"p": 3}}, "scoring.p belongs to criterion lp"),
    ],
)
def test_contradictions_are_told_when_the_recipe_is_read(options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        stage(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": {"conv9": 0.5}}, "'conv9' is no layer of the model"),
        ({"ratio": {"11": 0.5}}, "no channel of '11' can go: it is an output of the model"),
        ({"keep": {"0": 60}}, "it has 6 channels, and 60 are to stay"),
        ({"budget": {"macs": 0.01}}, r"cannot be met.*the smallest network that these options allow has"),
        ({"ratio": 0.5, "criterion": "bn_scale", "targets": ["11"], "scope": "global"}, None),
    ],
)
def test_what_does_not_fit_the_model_is_told(context, options, sentence):
    net = chain()
    shapes = [tensor.shape for tensor in net.parameters()]
    if sentence is None:
        stage(**options).apply(net, context)
        assert "channels left: all" in context.notes
    else:
        with pytest.raises(RecipeError, match=sentence):
            stage(**options).check(net)
            stage(**options).apply(net, context)
    assert [tensor.shape for tensor in net.parameters()] == shapes


def test_a_pattern_that_is_no_layer_is_told_before_training():
    with pytest.raises(RecipeError, match="'conv9' is no layer"):
        stage(ratio={"conv9": 0.5}).check(chain())


@pytest.mark.parametrize(
    ("name", "macs", "weights"),
    [
        ("vgg16", 34.2, 64.0),
        ("resnet56_a", 10.4, 9.4),
        ("resnet56_b", 27.6, 13.7),
        ("resnet110_a", 15.9, 2.3),
        ("resnet110_b", 38.6, 32.4),
    ],
)
def test_published_counts(name, macs, weights):
    """Li et al. 2017, arXiv 1608.08710, table 1: percent of the MACs and parameters that go, to 0.2 points."""
    register_methods()
    recipe = load_recipe(HERE / f"recipes/li_pruning/{name}.yaml")
    model, inputs = prepare_model(recipe), example_inputs(recipe)
    dense = count_macs(model, *inputs).total, sum(p.numel() for p in model.parameters())
    model = recipe.stages[0].apply(model, DryContext(0, inputs))
    left = count_macs(model, *inputs).total, sum(p.numel() for p in model.parameters())
    assert [100 * (1 - b / a) for a, b in zip(dense, left, strict=True)] == pytest.approx([macs, weights], abs=0.2)
