"""Smoothing against its closed form, the function of every model unchanged, and what it is worth in integers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tersenet.core.errors import DataError
from tersenet.core.stage import parse_stage
from tersenet.flow.prepare import register_methods

register_methods()


def stage(**options):
    return parse_stage({"method": "quantize.smooth", **options})


@torch.no_grad()
def run(model, x, toy_context, **options):
    """(the model before, the context after)"""
    context = toy_context((x,), torch.zeros(len(x)))
    before = copy.deepcopy(model)
    stage(**options).apply(model, context)
    torch.testing.assert_close(model(x), before(x), rtol=1e-4, atol=1e-5)
    return before, context


def columns(weight):
    return weight.detach().abs().transpose(0, 1).flatten(1).amax(1)


def uneven(count, seed=0):
    """Inputs whose channels differ a lot in range."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(200, count, generator=generator) * torch.logspace(-1, 1, count)


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.75, 1.0])
def test_two_layers_in_closed_form(toy_context, strength):
    """sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1−α) (eq. 4), over all batches."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval(), uneven(5)
    before, context = run(model, x, toy_context, strength=strength)
    with torch.no_grad():
        read = before[:2](x).abs().amax(0)
    scale = read**strength / columns(before[2].weight) ** (1 - strength)
    torch.testing.assert_close(model[0].weight, before[0].weight / scale[:, None])
    torch.testing.assert_close(model[0].bias, before[0].bias / scale)
    torch.testing.assert_close(model[2].weight, before[2].weight * scale)
    assert torch.equal(model[2].bias, before[2].bias) and context.notes == []


def test_inputs_and_weights_share_the_difficulty_alike(toy_context):
    """With α = 0.5 both have the range √(max|Xⱼ| max|Wⱼ|) (§4.1)."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval(), uneven(5)
    run(model, x, toy_context)
    with torch.no_grad():
        torch.testing.assert_close(model[:2](x).abs().amax(0), columns(model[2].weight))


class Separable(nn.Module):
    """Convolution, depthwise and pointwise convolution, each with its norm, and a linear layer over places."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(8, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Linear(5 * 4, 3)

    def forward(self, x):
        return self.last(self.three(self.two(self.one(x))).flatten(1))


def separable():
    torch.manual_seed(0)
    model = Separable()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2)
        norm.weight.data *= torch.randn(len(norm.weight)).exp()  # channels of very different ranges
        nn.init.uniform_(norm.bias, 0, 1)
        norm.running_var.uniform_(0.3, 3)
    return model.eval()


def images(count=60):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_convolutions_norms_and_places(toy_context):
    model, x = separable(), images()
    before, context = run(model, x, toy_context)
    assert context.notes == []
    one, two, three = model.one(x), model.two(model.one(x)), model.three(model.two(model.one(x)))
    torch.testing.assert_close(one.amax((0, 2, 3)), torch.ones(8))  # a filter for each channel: all of it
    former = before.three(before.two(before.one(x)))
    rows = former.amax((0, 2, 3)) / three.amax((0, 2, 3))  # by which the next joint has divided
    torch.testing.assert_close(two.amax((0, 2, 3)), columns(model.three[0].weight * rows[:, None, None, None]))
    torch.testing.assert_close(three.amax((0, 2, 3)), model.last.weight.abs().reshape(3, 5, 4).amax((0, 2)))
    assert before.one(x).amax((0, 2, 3)).std() > 0.5


def test_what_is_hardly_used_is_scaled_no_further_than_to_a_share(toy_context):
    """A channel 2⁻⁸ of the largest or less is divided by that, not by its own range."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).eval()
    model[0].weight.data = torch.diag(torch.tensor([1.0, 0.1, 1e-7]))
    before, _ = run(model, torch.rand(50, 3) + 1, toy_context, strength=1.0)
    scale = (before[0].weight / model[0].weight).diagonal().detach()
    assert float(scale[1] / scale[0]) == pytest.approx(0.1, rel=0.5)
    assert float(scale[2] / scale[0]) == pytest.approx(2**-8)


def test_dead_channels_stay_as_they_are(toy_context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    model[2].weight.data[:, 4] = 0
    before, _ = run(model, uneven(5), toy_context)
    assert torch.equal(model[0].weight[4], before[0].weight[4])
    assert not torch.equal(model[0].weight[3], before[0].weight[3])


class Block(nn.Module):
    """What transformers have: a norm that three layers read, beside a sum."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.norm = norm(6)
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.out, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        y = self.norm(x)
        q, k, v = self.query(y), self.key(y), self.value(y)
        return self.head(x + self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_of_transformers_make_what_is_read(toy_context, norm):
    torch.manual_seed(0)
    model, x = Block(norm).eval(), torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(2))
    model.norm.weight.data = torch.logspace(-1, 1, 6)
    before, context = run(model, x, toy_context)
    readers = ("query", "key", "value")
    with torch.no_grad():
        read = before.norm(x).abs().amax((0, 1))
    weighs = torch.stack([columns(getattr(before, name).weight) for name in readers]).amax(0)
    scale = (read / weighs).sqrt()
    torch.testing.assert_close(model.norm.weight, before.norm.weight / scale)
    for name in readers:
        torch.testing.assert_close(getattr(model, name).weight, getattr(before, name).weight * scale)
    assert torch.equal(model.out.weight, before.out.weight)
    assert not any("norm.weight" in note for note in context.notes)


def test_a_layer_without_a_module_is_left_alone_and_noted(toy_context):
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.weight = nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6))

        def forward(self, x):
            return nn.functional.linear(torch.relu(self.one(x)), self.weight)

    model = Loose().eval()
    before, context = run(model, uneven(4), toy_context)
    assert torch.equal(model.one.weight, before.one.weight)
    assert "one.weight are left as they are: what reads them is called by no linear" in context.notes[0]
    assert "nothing is smoothed" in context.notes[1]


def test_only_targets_are_touched(toy_context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    before, _ = run(model, uneven(5), toy_context, targets=["0", "2"])
    assert torch.equal(model[4].weight, before[4].weight)
    assert not torch.equal(model[0].weight, before[0].weight)


@torch.no_grad()
def test_eight_bits_lose_less_where_ranges_of_channels_differ(toy_context):
    gaps, x = [], images(200)
    for smooth in (False, True):
        model = separable()
        for (_, norm, _), reader in ((model.one, model.two[0]), (model.two[:3], model.three[0])):
            scale = torch.randn(8, generator=torch.Generator().manual_seed(3)).mul(1.5).exp()
            norm.weight *= scale
            norm.bias *= scale
            reader.weight /= scale[:, None, None, None] if reader is model.two[0] else scale[:, None, None]
        wanted = model(x)
        context = toy_context((x,), wanted)
        if smooth:
            model = stage().apply(model, context)
        model = parse_stage({"method": "quantize.int8", "ranges": ["minmax"]}).apply(model, context)
        gaps.append(float((model(x) - wanted).norm() / wanted.norm()))
    assert gaps[1] < 0.4 * gaps[0]


def test_mistakes_are_told(toy_context):
    with pytest.raises(DataError, match=r"quantize.smooth: runs the model on a batch of the train data, and there are"):
        stage().apply(nn.Sequential(nn.Linear(4, 3)), toy_context((torch.randn(0, 4),), torch.randn(0, 3)))
