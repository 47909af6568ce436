"""Recipes: YAML and Python are the same thing; a mistake is one sentence with file, line and what would be right."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.core.errors import RecipeError
from tersenet.core.load import load_recipe, parse_recipe, with_overrides
from tersenet.core.recipe import ModelSpec, Recipe
from tersenet.core.stage import STAGES
from tersenet.core.training import Training
from tersenet.flow.prepare import register_methods

register_methods()

GOOD = """
model: lenet_300_100
data: digits
train: {epochs: 3, lr: 1e-3}
stages:
  - method: prune.magnitude
    sparsity: 0.9
  - method: quantize.share
    bits: 4
seed: 7
"""


def test_yaml_and_python_give_the_same_recipe_and_digest() -> None:
    prune, share = STAGES["prune.magnitude"], STAGES["quantize.share"]
    python = Recipe(
        model=ModelSpec(name="lenet_300_100"),
        data={"path": "digits"},
        train=Training(epochs=3, lr=0.001),
        stages=(prune(sparsity=0.9), share(bits=4)),
        seed=7,
    )
    yaml = parse_recipe(GOOD)
    assert yaml == python
    assert yaml.digest() == python.digest()


def test_digest_omits_defaults_and_changes_with_anything_else() -> None:
    base = parse_recipe(GOOD)
    assert parse_recipe(GOOD.replace("lr: 1e-3", "lr: 1e-3, batch_size: 128")).digest() == base.digest()
    changed = ["seed=8", "train.lr=0.002", "stages.0.sparsity=0.91", "stages.1.bits=5", "model=lenet5"]
    digests = {parse_recipe(GOOD, overrides=[change]).digest() for change in changed}
    assert len(digests) == len(changed)
    assert base.digest() not in digests


def test_plain_form_round_trips() -> None:
    recipe = parse_recipe(GOOD)
    assert Recipe.parse(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: lenet5\ntrain:\n  epoch: 3", ["line 3", "train.epoch", "did you mean 'epochs'"]),
        ("modle: lenet5", ["line 1", "unknown key 'modle'", "did you mean 'model'"]),
        ("train: {epochs: many}", ["line 1", "train.epochs", "'many'"]),
        ("train: {epochs: 1, steps: 2}", ["exactly one of 'epochs' and 'steps'"]),
        ("train: {lr: 0.1}", ["exactly one of 'epochs' and 'steps'"]),
        ("stages:\n - method: prune.magnitude\n   sparsity: 1.0", ["line 3", "stages[0].sparsity", "1.0"]),
        ("stages:\n - method: prune.magnitude\n   sparsity: -0.1", ["line 3", "stages[0].sparsity", "-0.1"]),
        ("stages:\n - method: prune.magnitude\n   sparsity: .nan", ["line 3", "stages[0].sparsity"]),
        ("stages:\n - method: prune.magnitud\n   sparsity: 0.5", ["line 2", "did you mean 'prune.magnitude'"]),
        ("stages:\n - sparsity: 0.5", ["line 2", "stages[0]", "method"]),
        ("stages: {method: prune.magnitude}", ["stages", "list"]),
        ("train: {lr: .inf, epochs: 1}", ["train.lr", "finite"]),
        ("model: {name: a, factory: b:c}", ["model", "exactly one"]),
        ("model: {factory: 'no colon'}", ["model.factory"]),
        ("seed: 1\nseed: 2", ["line 2", "'seed' twice"]),
        ("seed: [1", ["not valid YAML"]),
        ("- a", ["a recipe is a mapping"]),
        ("", ["a recipe is a mapping"]),
        ("gate: {max_error: 2}", ["gate.max_error"]),
        ("runtime: {precision: fp8}", ["runtime.precision", "'fp8'"]),
        ("seed: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_one_sentence(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_reach_lists_shorthands_and_new_keys() -> None:
    recipe = parse_recipe(GOOD, overrides=["stages.1.bits=5", "data.augment.shift=2", "model.kwargs.dropout=0.5"])
    assert recipe.stages[1].bits == 5  # type: ignore[attr-defined]
    assert recipe.data is not None
    assert (recipe.data.path, recipe.data.augment.shift) == ("digits", 2)
    assert recipe.model is not None
    assert (recipe.model.name, recipe.model.kwargs) == ("lenet_300_100", {"dropout": 0.5})


@pytest.mark.parametrize("override", ["stages.9.bits=1", "stages.x.bits=1", "noequals", "=3", "seed.deeper.still=1"])
def test_a_wrong_override_is_one_sentence(override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        parse_recipe(GOOD, overrides=[override])


def test_a_value_set_wrongly_is_blamed_on_the_command_line_not_on_the_file() -> None:
    with pytest.raises(RecipeError, match=r"^--set train\.lr"):
        parse_recipe(GOOD, "my.yaml", ["train.lr=-1"])


def test_with_overrides_leaves_its_argument_alone() -> None:
    plain = {"train": {"epochs": 1}}
    assert with_overrides(plain, ["train.epochs=2"]) == {"train": {"epochs": 2}}
    assert plain == {"train": {"epochs": 1}}


def test_missing_and_unreadable_recipes(tmp_path: object) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(f"{tmp_path}/none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(f"{tmp_path}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_value_at_any_key_makes_anything_but_a_recipe_error(value: object) -> None:
    for key in Recipe.model_fields:
        try:
            Recipe.parse({key: value})
        except RecipeError as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{key}: {value!r}") from error


def test_numbers_are_read_as_yaml_1_2_reads_them() -> None:
    recipe = parse_recipe("train: {epochs: 1, lr: 5e-4}")
    assert recipe.train is not None
    assert math.isclose(recipe.train.lr, 5e-4)


def test_where_the_data_lies_is_neither_in_the_digest_nor_in_what_is_stored(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        folder = tmp_path / place / "mnist"
        folder.mkdir(parents=True)
        recipe = parse_recipe(GOOD, overrides=[f"data.path={folder}"])
        assert recipe.portable()["data"]["path"] == "mnist"
        assert recipe.to_dict()["data"]["path"] == str(folder)
        digests.add(recipe.digest())
    assert len(digests) == 1
    assert parse_recipe(GOOD, overrides=["data.path=mnist"]).digest() in digests
