"""Code lengths against counting, sequential coding and known bounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.bounds import adaptive_bits, code_length, prequential_bits, zeroth_order_bits
from tersenet.bounds.code_length import TensorLength, ideal_of

ROWS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def counts(row: list[int]) -> np.ndarray:
    return np.bincount(row, minlength=5)


def sequential(row: list[int], alphabet: int) -> list[Fraction]:
    """What the estimator says of each symbol before it is seen, in exact arithmetic."""
    seen = [0] * alphabet
    said = []
    for time, symbol in enumerate(row):
        said.append(Fraction(2 * seen[symbol] + 1, 2 * time + alphabet))
        seen[symbol] += 1
    return said


@settings(deadline=None, max_examples=30)
@given(ROWS, st.integers(5, 9))
def test_adaptive_is_the_sequential_code(row, alphabet):
    expected = -math.log2(math.prod(sequential(row, alphabet)))
    assert adaptive_bits(counts(row), alphabet) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_adaptive_is_a_prequential_code(row):
    """Blocks of one label each, coded by the model trained on those before: its first is uniform in both."""
    losses = [-math.log(said) for said in sequential(row, 5)[1:]]
    assert prequential_bits([1] * len(row), losses, 5) == pytest.approx(adaptive_bits(counts(row), 5), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_zeroth_order_is_below_the_other_two(row):
    found = code_length(counts(row), 5)
    assert found.zeroth <= found.alphabet + 1e-9
    assert found.zeroth <= found.adaptive + 1e-9


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_regret_of_the_adaptive_code(row):
    """Krichevsky and Trofimov: at most (A − 1)/2 · log2 n + log2 A above the entropy for every row."""
    regret = adaptive_bits(counts(row), 5) - zeroth_order_bits(counts(row))
    assert regret <= 2 * math.log2(len(row)) + math.log2(5) + 1e-9


def test_worked_values():
    assert zeroth_order_bits(np.array([2, 1, 1])) == pytest.approx(6)  # 4 · 1.5 bits
    assert adaptive_bits(np.array([1, 1]), 2) == pytest.approx(3)  # ½ · ¼
    assert adaptive_bits(np.array([2]), 2) == pytest.approx(-math.log2(3 / 8))
    assert code_length(np.array([3, 1]), 16).alphabet == 16


def test_nothing_to_say():
    for length in (code_length(np.array([], int), 7), code_length(np.array([100]), 1)):
        assert (length.alphabet, length.zeroth, length.adaptive) == (0, 0, 0)
    with pytest.raises(ValueError, match="3 symbols occur"):
        adaptive_bits(np.array([1, 1, 1]), 2)


def test_a_tensor_takes_the_shorter_of_its_two_ideals():
    first = TensorLength("a", 10, streams=9, others=2, plain=8, entropy=5, coder_tables=3, adaptive=7, disk=14)
    second = TensorLength("b", 10, streams=9, others=2, plain=8, entropy=5, coder_tables=1, adaptive=7, disk=14)
    assert (first.ideal, second.ideal, ideal_of([first, second])) == (7, 6, 13)
