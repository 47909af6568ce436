"""Folding of batch norms against torch's own fusion, and every reason for which a norm stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import tersenet.prune.channels
import tersenet.quantize.fold
import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.change import CHANGES
from tersenet.core.errors import DataError, ModelError
from tersenet.core.stage import parse_stage
from tersenet.flow.load import load
from tersenet.flow.pack import save
from tersenet.forms import Masked, attach, match, weight_of, weights
from tersenet.graph.edits import noted


def stage(**options):
    return parse_stage({"method": "quantize.fold", **options})


def lived(model):
    """Norms with statistics and scales, one of them below zero, as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name in ("weight", "bias", "running_mean"):
                if getattr(module, name) is not None:
                    getattr(module, name).data.normal_(generator=generator)
            if module.running_var is not None:
                module.running_var.uniform_(0.3, 3, generator=generator)
    return model.eval()


def run(model, x, toy_context, **options):
    """(the model before, the context after)"""
    context, before = toy_context((x,), torch.zeros(len(x))), copy.deepcopy(model)
    stage(**options).apply(model, context)
    with torch.no_grad():
        torch.testing.assert_close(model(x), before(x), rtol=1e-4, atol=1e-5)
    return before, context


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


PAIRS = {
    "linear": (lambda bias: nn.Linear(4, 6, bias), nn.BatchNorm1d, (5, 4)),
    "conv1d": (lambda bias: nn.Conv1d(4, 6, 3, bias=bias), nn.BatchNorm1d, (2, 4, 7)),
    "conv2d": (lambda bias: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d, (2, 4, 6, 6)),
    "depthwise": (lambda bias: nn.Conv2d(3, 6, 3, groups=3, bias=bias), nn.BatchNorm2d, (2, 3, 6, 6)),
    "conv3d": (lambda bias: nn.Conv3d(2, 6, 2, bias=bias), nn.BatchNorm3d, (2, 2, 4, 4, 4)),
    "transposed": (lambda bias: nn.ConvTranspose2d(4, 6, 3, stride=2, bias=bias), nn.BatchNorm2d, (2, 4, 4, 4)),
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PAIRS)
def test_weight_and_bias_are_those_of_torch(toy_context, kind, bias, affine):
    torch.manual_seed(0)
    make, norm, shape = PAIRS[kind]
    model = lived(nn.Sequential(make(bias), norm(6, affine=affine), nn.ReLU()))
    before, context = run(model, torch.randn(shape), toy_context)
    if isinstance(before[0], nn.Linear):
        full = nn.BatchNorm1d(6).eval()  # torch's function takes no norm without a scale
        full.load_state_dict(before[1].state_dict(), strict=False)
        theirs = fuse_linear_bn_eval(before[0], full)
    else:
        theirs = fuse_conv_bn_eval(before[0], before[1], transpose=kind == "transposed")
    torch.testing.assert_close(model[0].weight, theirs.weight)
    torch.testing.assert_close(model[0].bias, theirs.bias)
    assert norms(model) == [] and context.notes == []


def test_a_grouped_transposed_convolution(toy_context):
    """Of which torch's own fusion knows nothing: its outputs lie group after group."""
    torch.manual_seed(0)
    model = lived(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)))
    run(model, torch.randn(2, 4, 5, 5), toy_context)
    assert norms(model) == [] and model[0].bias is not None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.first = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two, self.second = nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(self.one(x)))
        return self.head(torch.relu(self.second(self.two(x))).mean((2, 3)))


@pytest.mark.parametrize("order", [["fold"], ["channels", "fold"], ["fold", "channels"], ["fold", "uniform"]])
def test_a_fresh_model_is_changed_the_same_way(toy_context, tmp_path, order):
    torch.manual_seed(0)
    model, x = lived(Net()), torch.randn(4, 2, 8, 8)
    made = {
        "fold": {"method": "quantize.fold"},
        "channels": {"method": "prune.channels", "ratio": 0.5},
        "uniform": {"method": "quantize.uniform", "bits": 8},
    }
    for name in order:
        parse_stage(made[name]).apply(model, toy_context((x,), torch.zeros(4, 3)))
    assert norms(model) == [] and (model.two.out_channels == 4) == ("channels" in order)
    save(model, tmp_path / "net.terse", small_tensors="float32")
    back = load(tmp_path / "net.terse", Net())
    with torch.no_grad():
        torch.testing.assert_close(back(x), model.eval()(x))
    assert noted(back) == noted(model)


def test_only_targets_and_in_training_mode_the_model_stays_in_it(toy_context):
    torch.manual_seed(0)
    model = lived(Net())
    run(model, torch.randn(4, 2, 8, 8), toy_context, targets=["two"])
    assert norms(model) == ["first"]
    model = lived(Net()).train()
    stage().apply(model, toy_context((torch.randn(4, 2, 8, 8),), torch.zeros(4, 3)))
    assert all(module.training for module in model.modules()) and norms(model) == []


def test_pruned_weights_stay_zero(toy_context):
    torch.manual_seed(0)
    model = lived(Net())
    for target in match(model):
        attach(target, Masked(torch.rand(target.shape) > 0.5))
    zeros = {target.name: weight_of(target) == 0 for target in match(model)}
    run(model, torch.randn(4, 2, 8, 8), toy_context)
    assert all(torch.equal(weight_of(target) == 0, zeros[target.name]) for target in match(model))
    assert norms(model) == []


class Forward(nn.Module):
    """Layers a and b, a norm, and a forward that is given."""

    def __init__(self, forward, **norm):
        super().__init__()
        self.a, self.b, self.norm, self.how = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6, **norm), forward

    def forward(self, x):
        return self.how(self, x)


def hooked(model):
    model.norm.register_forward_hook(lambda module, given, output: None)


def quantized(model):
    parse_stage({"method": "quantize.uniform", "targets": ["a"]}).apply(model, None)


def formed_bias(model):
    attach(next(t for t in weights(model) if t.name == "a.bias"), Masked(torch.ones(6) > 0))


def tied(model):
    model.b.weight = model.a.weight


def infinite(model):
    model.a.weight.data[0, 0] = torch.inf


def statistics_of_the_batch(m, x):
    return torch.nn.functional.batch_norm(m.a(x), None, None, m.norm.weight, m.norm.bias, True)


def by_hand(m, x):
    return torch.nn.functional.batch_norm(m.a(x), m.norm.running_mean, m.norm.running_var, eps=m.norm.eps)


INTO = "the norm 'norm' is not folded into 'a': "
STAY = {
    "first": (lambda m, x: m.a(m.norm(x)), None, {}, "what it reads comes from no linear layer or convolution"),
    "after an activation": (lambda m, x: m.norm(m.a(x).relu()), None, {}, "what it reads comes from no linear layer"),
    "another reader": (lambda m, x: m.norm(y := m.a(x)) + y, None, {}, "not only it reads what 'a' gives"),
    "layer twice": (lambda m, x: m.norm(m.a(m.a(x))), None, {}, "the layer before it, 'a', is used in several places"),
    "tied": (lambda m, x: m.norm(m.a(m.b(x))), tied, {}, "the layer before it, 'a', is used in several places"),
    "norm twice": (lambda m, x: m.norm(m.a(m.norm(x))), None, {}, "the model calls it 2 times"),
    "of the batch": (statistics_of_the_batch, None, {}, "it is no batch norm of torch.nn"),
    "no statistics": (
        lambda m, x: m.norm(m.a(x)),
        None,
        {"track_running_stats": False},
        "it normalises by what it is given, with no statistics of its own",
    ),
    "by hand": (by_hand, None, {}, "it is no batch norm of torch.nn"),
    "other dimension": (
        lambda m, x: m.norm(m.a(x[:, None].expand(-1, 6, -1))),
        None,
        {},
        "it normalises another dimension than the outputs of 'a'",
    ),
    "hook": (lambda m, x: m.norm(m.a(x)), hooked, {}, "what hangs on it (a parametrization, a hook) would be lost"),
    "quantized": (lambda m, x: m.norm(m.a(x)), quantized, {}, INTO + "a.weight is uniform already, and scales would"),
    "bias": (lambda m, x: m.norm(m.a(x)), formed_bias, {}, INTO + "the layer's bias is compressed itself"),
    "infinite": (lambda m, x: m.norm(m.a(x)), infinite, {}, INTO + "a.weight holds NaN or infinity"),
}


@pytest.mark.parametrize("case", STAY)
def test_what_cannot_be_folded_is_noted_and_stays(toy_context, case):
    torch.manual_seed(0)
    forward, prepare, options, reason = STAY[case]
    model, x = lived(Forward(forward, **options)), torch.randn(8, 6)
    if prepare:
        prepare(model)
    state = copy.deepcopy(model.state_dict())
    stage().apply(model, context := toy_context((x,), torch.zeros(8, 6)))
    assert len(context.notes) == 2 and reason in context.notes[0] and context.notes[1] == "no batch norm is folded"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert norms(model) == ["norm"] and noted(model) == {}


def test_what_the_graph_does_not_see_is_not_folded_and_the_rest_is(toy_context):
    class Odd(Net):
        """The weight of one layer counts beside it, but not when it is exported."""

        def forward(self, x):
            y = super().forward(x)
            return y if torch.compiler.is_exporting() else y * self.one.weight.abs().sum()

    torch.manual_seed(0)
    model = lived(Odd())
    weight = model.one.weight.clone()
    _, context = run(model, torch.randn(4, 2, 8, 8), toy_context)
    assert norms(model) == ["first"] and torch.equal(model.one.weight, weight) and model.one.bias is None
    assert len(context.notes) == 1
    assert "the norm 'first' is not folded into 'one': the model's output would differ by" in context.notes[0]


def test_no_data_is_told(toy_context):
    with pytest.raises(DataError, match=r"quantize.fold: runs the model on a batch of the train data, and there are"):
        stage().apply(Net(), toy_context((torch.randn(0, 2, 8, 8),), torch.randn(0, 3)))


@pytest.mark.parametrize("path", ["head.bias", "one.weight", "first.bias", "bias", "nowhere.bias", "one"])
def test_files_that_give_a_bias_where_none_can_be_are_refused(path):
    with pytest.raises(ModelError, match=r"the file gives .* a bias, which this model cannot take"):
        CHANGES["bias"](Net(), path, {})
    with pytest.raises(ModelError):
        CHANGES["bias"](Net(), "one.bias", {"size": 3})
    with pytest.raises(ModelError, match=r"puts a ReLU in place of .*, which is no ReLU6"):
        CHANGES["relu"](Net(), path, {})
