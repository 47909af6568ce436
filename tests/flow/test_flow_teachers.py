"""Distillation in a recipe: who teaches, that it changes what is learned, and what a user gets wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersenet import save
from tersenet.core.errors import RecipeError
from tersenet.core.recipe import Recipe
from tersenet.flow.prepare import prepare, register_methods
from tersenet.flow.run import run

MODEL = {"name": "mlp", "kwargs": {"inputs": 64, "hidden": [16], "classes": 10}}


def recipe(teacher=None, train=True, **stage):
    register_methods()
    tuned = {"steps": 30, "lr": 1e-3} | ({} if teacher is None else {"teacher": teacher})
    stages = [{"method": "quantize.binary", "finetune": tuned} | stage]
    dense = {"train": {"epochs": 2, "lr": 3e-3}} if train else {}
    return Recipe.parse({"model": MODEL, "data": {"path": "digits"}, "stages": stages} | dense)


def outcome(folder, plan):
    model, splits = prepare(plan)
    return run(plan, model, splits, folder)


def weights_of(model):
    return torch.cat([p.flatten() for p in model.state_dict().values()])


def test_dense_model_and_files_teach(tmp_path):
    plain = outcome(tmp_path / "plain", recipe())
    taught = outcome(tmp_path / "dense", recipe({}))
    assert not torch.equal(weights_of(plain.model), weights_of(taught.model))
    dense = outcome(tmp_path / "teacher", Recipe.parse({**recipe().to_dict(), "stages": []}))
    by_file = outcome(tmp_path / "file", recipe({"files": [str(dense.file)]}))
    close = {"rtol": 1e-2, "atol": 1e-3}  # the file holds that very model, its biases rounded
    torch.testing.assert_close(weights_of(by_file.model), weights_of(taught.model), **close)
    twice = outcome(tmp_path / "twice", recipe({"files": [str(dense.file), str(dense.file)]}))
    torch.testing.assert_close(weights_of(twice.model), weights_of(by_file.model))


def test_model_teaches_as_the_stage_got_it(tmp_path):
    """As the file does that holds what the stages before made, and not as the dense model does."""
    before = {"method": "prune.magnitude", "sparsity": 0.8}

    def outcome_of(name, *stages):
        return outcome(tmp_path / name, Recipe.parse({**recipe().to_dict(), "stages": [before, *stages]}))

    def taught_by(name, **teacher):
        tuned = {"steps": 30, "lr": 1e-3, "teacher": {"weight": 1.0, **teacher}}
        return weights_of(outcome_of(name, {"method": "prune.magnitude", "sparsity": 0.95, "finetune": tuned}).model)

    by_stage, by_dense = taught_by("stage", model="stage"), taught_by("dense")
    by_file = taught_by("file", files=[str(outcome_of("teacher").file)])
    torch.testing.assert_close(by_stage, by_file, rtol=1e-2, atol=1e-3)  # in the file, biases are rounded
    assert not torch.allclose(by_stage, by_dense, rtol=1e-2, atol=1e-3)


def test_another_teacher_of_the_same_name_is_another_training(tmp_path):
    """Two runs share checkpoints, and the file changes between them."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path / "t.terse", example=torch.zeros(2, 1, 8, 8))
        plan = recipe({"files": [str(tmp_path / "t.terse")], "weight": 1.0})
        model, splits = prepare(plan)
        found.append(run(plan, model, splits, tmp_path / f"run{seed}", checkpoints=tmp_path / "checkpoints").model)
    assert not torch.equal(*(weights_of(model) for model in found))


def test_mistakes_are_told_before_anything_is_trained(tmp_path):
    torch.manual_seed(0)
    save(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), tmp_path / "seven.terse", example=torch.zeros(2, 1, 8, 8))
    save(nn.Sequential(nn.Flatten(), nn.Linear(60, 10)), tmp_path / "sixty.terse", example=torch.zeros(2, 1, 6, 10))
    (tmp_path / "junk.terse").write_bytes(b"junk")
    for name, message in (
        ("none.terse", "none.terse"),
        ("junk.terse", "junk.terse"),
        ("seven.terse", r"its output is \(\d+, 7\), but that of the model that learns \(\d+, 10\)"),
        ("sixty.terse", "sixty.terse"),
    ):
        with pytest.raises(RecipeError, match=message) as error:
            outcome(tmp_path / "run", recipe({"files": [str(tmp_path / name)]}))
        assert "\n" not in str(error.value)
    no_files = {**recipe().to_dict(), "train": {"epochs": 1, "teacher": {}}}
    with pytest.raises(RecipeError, match="no model to learn from"):
        outcome(tmp_path / "run", Recipe.parse(no_files))
    with pytest.raises(RecipeError, match="'files' or 'model: stage', not both"):
        recipe({"files": ["a.terse"], "model": "stage"})
    with pytest.raises(RecipeError, match="squared_hinge"):
        recipe({}, finetune={"steps": 1, "objective": "squared_hinge", "teacher": {}})
