"""Registry, seeds and codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersenet.core.code import Symbols
from tersenet.core.errors import RecipeError
from tersenet.core.registry import Registry
from tersenet.core.seeds import derive, generator


def test_registry_names_the_nearest_entry() -> None:
    fruit: Registry[int] = Registry("fruit")
    fruit.register("apple")(1)
    fruit.register("pear")(2)
    assert list(fruit) == ["apple", "pear"]
    with pytest.raises(RecipeError, match="unknown fruit 'aple'; did you mean 'apple'"):
        fruit["aple"]
    with pytest.raises(RecipeError, match="there are: apple, pear"):
        fruit["zzz"]
    with pytest.raises(ValueError, match="two fruits"):
        fruit.register("apple")(3)


def test_seeds_of_different_purposes_never_meet() -> None:
    seeds = {derive(seed, "batches", epoch) for seed in range(20) for epoch in range(200)}
    assert len(seeds) == 4000
    assert derive(1, "2", "3") != derive(12, "3")
    assert torch.equal(torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a")))


def test_seeds_are_those_of_every_machine_and_version() -> None:
    assert derive(0, "batches", 1) == 8299432574121774189


@pytest.mark.parametrize(
    "values", [np.array([-1], np.int32), np.array([3], np.int32), np.array([[0]], np.int32), np.array([0], np.int64)]
)
def test_symbols_outside_their_alphabet_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="symbols must"):
        Symbols(values, 3)
