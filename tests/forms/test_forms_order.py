"""Stages in an order that cannot work are refused before anything is trained."""

import pytest
import torch
from pydantic import Field
from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.core.stage import Phase, Stage
from tersenet.forms import Shared, attach, check_order, match


class Zeros(Stage):
    method = "toy.zeros"
    phase = Phase.SUPPORT
    share: dict[str, float] = Field({})

    def options_for(self):
        return tuple(self.share)


class Values(Stage):
    method = "toy.values"
    phase = Phase.VALUES


MODEL = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


@pytest.mark.parametrize(
    "stages",
    [
        [],
        [Zeros(), Values()],
        [Zeros(), Zeros(), Values(), Values()],
        [Values(targets=("0",)), Zeros(targets=("1",))],
        [Zeros(share={"0": 0.1, "1": 0.2})],
    ],
)
def test_orders_that_work(stages):
    check_order(stages, MODEL)


@pytest.mark.parametrize(
    ("stages", "place", "sentence"),
    [
        ([Values(), Zeros()], 1, r"stages\[1\]: toy.zeros cannot follow toy.values on 0.weight"),
        ([Zeros(), Values(), Zeros(targets=("1",))], 2, "on 1.weight"),
        ([Zeros(targets=("fc",))], 0, r"stages\[0\]: 'fc' matches no weight"),
        ([Zeros(), Zeros(share={"Conv2d": 0.5})], 1, "'Conv2d' matches no weight"),
        ([Zeros(targets=("0",), share={"1": 0.5})], 0, "'1' matches no weight"),
        ([Zeros(share={"0": 0.5, "Linear": 0.2})], 0, "0.weight is given twice"),
    ],
)
def test_orders_that_do_not(stages, place, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        check_order(stages, MODEL)
    assert caught.value.path == ("stages", place)


def test_what_the_model_already_has_counts():
    model = nn.Sequential(nn.Linear(3, 3))
    attach(match(model)[0], Shared(torch.zeros(3, 3, dtype=int), 1, zero=False))
    check_order([Values()], model)
    with pytest.raises(
        RecipeError,
        match=r"toy\.zeros cannot be applied to 0\.weight: the model given is already compressed \(shared\)",
    ):
        check_order([Zeros()], model)
