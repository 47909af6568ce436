"""quantize.int8 takes the way of choosing ranges that its documentation promises."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from tersenet.core.stage import parse_stage
from tersenet.flow.prepare import register_methods

register_methods()

WAYS = ("minmax", "percentile", "mse", "entropy")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.fixture
def context(toy_context):
    """Inputs with a few that are far larger than the rest, so that ways differ."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 6, generator=generator)
    x[::50] *= 30
    return toy_context((x,), torch.zeros(128, 3))


def rounded(model: nn.Module, way: str, context) -> nn.Module:
    """By the two stages that int8 is made of."""
    calibration = {"batches": 8, "batch_size": 64}
    model = deepcopy(model)
    for options in (
        {"method": "quantize.uniform", "bias_correction": True, **calibration},
        {"method": "quantize.activations", "range": way, "sums": True, **calibration},
    ):
        model = parse_stage(options).apply(model, context)
    return model


def test_without_classes_it_is_the_way_with_the_nearest_outputs(context):
    x, model = context.inputs[0], net()
    with torch.no_grad():
        gaps = {way: float((rounded(model, way, context)(x) - model(x)).norm()) for way in WAYS}
        nearest = min(gaps, key=gaps.__getitem__)
        assert max(gaps.values()) > 1.2 * gaps[nearest]
        taken = parse_stage({"method": "quantize.int8"}).apply(deepcopy(model), context)
        assert torch.equal(taken(x), rounded(model, nearest, context)(x))
    (note,) = (note for note in context.notes if note.startswith("ranges of inputs by"))
    assert f"by '{nearest}'" in note
    assert f"{nearest} 0.00 % (outputs {1e2 * gaps[nearest] / float(model(x).detach().norm()):.2f} % off)" in note


def test_a_plan_tells_of_inputs_that_are_rounded_already(context):
    model = parse_stage({"method": "quantize.activations"}).apply(net(), context)
    context.dry = True
    parse_stage({"method": "quantize.int8"}).apply(model, context)
    assert {note for note in context.notes if "rounded already" in note} == {
        f"the input of {name} is rounded already; it is left as it is" for name in ("0", "2")
    }


CASES = [
    ((0.30, 0.20, 0.30, 0.30), "percentile"),  # its error is less, beyond doubt of 1,000 examples
    ((0.205, 0.20, 0.205, 0.30), None),  # three within the standard error, √(0.2·0.8/1000) = 0.0126, of the least
]


@pytest.mark.parametrize(("errors", "taken"), CASES, ids=["beyond doubt", "in doubt"])
def test_errors_count_beyond_their_standard_error(context, monkeypatch, errors, taken):
    given, x, model = iter(errors), context.inputs[0], net()
    monkeypatch.setattr(
        type(context), "evaluate", lambda *_: {"loss": 1.0, "error": next(given), "examples": 1000.0}, raising=True
    )
    parse_stage({"method": "quantize.int8"}).apply(deepcopy(model), context)
    if taken is None:
        with torch.no_grad():
            gaps = {way: float((rounded(model, way, context)(x) - model(x)).norm()) for way in WAYS[:3]}
        taken = min(gaps, key=gaps.__getitem__)
        assert taken != "percentile"
    assert any(note.startswith(f"ranges of inputs by '{taken}'") for note in context.notes)
