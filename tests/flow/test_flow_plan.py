"""The dry run: it trains nothing, changes nothing, and its bytes come near those of a real run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tersenet.core.load import load_recipe
from tersenet.flow.plan import plan
from tersenet.flow.prepare import example_inputs, prepare, prepare_model, register_methods
from tersenet.flow.run import run

DEMO = Path(__file__).parents[2] / "recipes/demo/digits.yaml"
SHORT = ["train.epochs=15", "stages.0.finetune.epochs=15", "stages.1.finetune.epochs=2"]


@pytest.fixture(scope="module", autouse=True)
def _methods() -> None:
    register_methods()


def test_predicted_bytes_are_near_those_of_a_run(tmp_path: Path) -> None:
    recipe = load_recipe(DEMO, SHORT)
    predicted = plan(recipe, prepare_model(recipe), example_inputs(recipe))
    figures = run(recipe, *prepare(recipe), tmp_path).record.figures
    assert predicted.predicted_bytes / 1.25 < figures.file_bytes < predicted.predicted_bytes * 1.25
    assert predicted.nonzero == figures.nonzero
    assert (predicted.macs, predicted.parameters) == (figures.macs, figures.parameters)
    assert predicted.macs_nonzero == figures.macs_nonzero


def test_more_bits_and_more_weights_are_predicted_to_cost_more() -> None:
    def size(*changes: str) -> int:
        recipe = load_recipe(DEMO, changes)
        return plan(recipe, prepare_model(recipe)).predicted_bytes

    assert size("stages.1.bits=2") < size() < size("stages.1.bits=6")
    assert size("stages.0.sparsity=0.99") < size("stages.0.sparsity=0.9") < size("stages.0.sparsity=0.5")


def test_a_plan_needs_no_data_and_takes_no_time_for_what_is_measured_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a plan calibrates")

    monkeypatch.setattr("tersenet.quantize.uniform.Calibration", never)
    recipe = load_recipe(
        DEMO,
        [
            "stages=[{method: quantize.activations}, {method: quantize.uniform, mixed: {average: 3}, "
            "rounding: adaptive, bias_correction: true}]"
        ],
    )
    bits = 3 * sum(p.numel() for name, p in prepare_model(recipe).named_parameters() if p.ndim > 1)
    assert 0.6 * bits / 8 < plan(recipe, prepare_model(recipe)).predicted_bytes < 1.6 * bits / 8 + 2000


def test_the_model_is_left_as_it_was() -> None:
    recipe = load_recipe(DEMO)
    model = prepare_model(recipe)
    before = copy.deepcopy(model.state_dict())
    plan(recipe, model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
