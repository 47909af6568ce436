"""Bits within a budget, against brute force over all combinations, and what reaches the file."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersenet import artifact
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.pack import contents_of
from tersenet.forms import form_of, match, weight_of
from tersenet.quantize.mixed import Candidate, allocate
from tersenet.quantize.uniform import UniformQuantization

candidates = st.builds(Candidate, st.integers(1, 8), st.integers(0, 30), st.integers(0, 50))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(candidates, min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 60))
def test_the_choice_is_the_best_of_all(listed, budget):
    fitting = [c for c in product(*listed) if sum(each.size for each in c) <= budget]
    chosen = allocate(listed, budget)
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None and all(each in row for each, row in zip(chosen, listed, strict=True))
    assert sum(each.size for each in chosen) <= budget
    assert sum(each.harm for each in chosen) == min(sum(each.harm for each in c) for c in fitting)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(candidates, min_size=2, max_size=4), min_size=2, max_size=4), st.integers(10, 60))
def test_large_budgets_are_never_exceeded_and_used_but_for_a_small_part(listed, budget):
    large = [[Candidate(c.bits, c.size * 10_007, c.harm) for c in row] for row in listed]
    exact, widened = allocate(listed, budget), budget * 10_007 * (1 + len(listed) / 2**13)
    if exact is not None:
        chosen = allocate(large, widened)
        assert chosen is not None and sum(each.size for each in chosen) <= widened
        assert sum(each.harm for each in chosen) <= sum(each.harm for each in exact)


def stage(**options):
    return parse_stage({"method": UniformQuantization.method, **options})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(64, 20),), torch.randn(64, 4))


def bits_of(model):
    return [(form_of(target).levels - 1).bit_length() for target in match(model)]


@pytest.mark.parametrize("by", ["fisher", "loss", "error"])
def test_what_counts_is_the_function_and_not_how_large_weights_are(context, by):
    scaled = net()
    with torch.no_grad():  # the same function, since relu(10 x) / 10 = relu(x)
        scaled[0].weight.mul_(10)
        scaled[0].bias.mul_(10)
        scaled[2].weight.div_(10)
    options = {"average": 4, "by": by, "choices": [1, 2, 3, 4, 5, 6, 8]}
    found, before = (bits_of(stage(mixed=options, scheme="affine").apply(model, context)) for model in (scaled, net()))
    assert (found == before) == (by != "error")
    assert by != "error" or found[0] > before[0]
    assert sum(bits * size for bits, size in zip(found, (600, 1200, 160), strict=True)) <= 4 * 1960


def test_bytes_are_those_of_the_file(context):
    budget = 900
    model = stage(mixed={"bytes": budget}).apply(net(), context)
    _, ledger = artifact.to_bytes(contents_of(model, Recipe.parse({}), None))
    names = {target.name for target in match(model)}
    used = sum(row.values + row.positions + row.tables for row in ledger.rows if row.name in names)
    assert 0.9 * budget <= used <= budget
    assert f"bits within {budget} bytes, of which {used} are used: 0.weight" in context.notes[-1]


class Unequal(nn.Module):
    """Of two layers alike, one hardly counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.much, self.little = nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, x):
        return self.much(x) + 0.01 * self.little(x)


@pytest.mark.parametrize("by", ["fisher", "loss"])
def test_less_harm_than_the_same_bits_everywhere(context, by):
    with torch.no_grad():
        context.target.copy_(Unequal()(*context.inputs) + 0.01 * torch.randn(64, 4))
    losses = {}
    for options in ({"bits": 4}, {"mixed": {"average": 4, "by": by}}):
        model = stage(**options).apply(Unequal(), context)
        losses[next(iter(options))] = context.evaluate(model)["loss"]
    assert bits_of(model) == [6, 2] and losses["mixed"] < 0.2 * losses["bits"]


def test_what_is_settled_is_left_out_of_the_budget(context):
    model = stage(bits={"0": 3}).apply(net(), context)
    before = weight_of(match(model)[0]).clone()
    model = stage(mixed={"average": 3}).apply(model, context)
    assert torch.equal(weight_of(match(model)[0]), before) and None not in map(form_of, match(model))
    assert "0.weight is left as it is, since it takes few values already" in context.notes


def test_mistakes_are_named(context, toy_context):
    for options, message in (
        ({"mixed": {}}, "either 'bytes'"),
        ({"mixed": {"bytes": 9, "average": 2}}, "either 'bytes'"),
        ({"mixed": {"average": 2, "choices": [0, 2]}}, "0 is no number of bits"),
        ({"mixed": {"average": 2, "choices": [1, 2]}}, "1 bit has no symmetric grid"),
        ({"mixed": {"average": 2}, "bits": 3}, "leave out 'bits'"),
    ):
        with pytest.raises(RecipeError, match=message):
            stage(**options)
    with pytest.raises(RecipeError, match=r"give at least bytes: \d+"):
        stage(mixed={"bytes": 20}).apply(net(), context)
    with pytest.raises(RecipeError, match="give at least average: 2"):
        stage(mixed={"average": 1.5}).apply(net(), context)
    empty = toy_context((torch.zeros(0, 20),), torch.zeros(0, 4))
    with pytest.raises(DataError, match="there are none"):
        stage(mixed={"average": 3}).apply(net(), empty)
