import math

import numpy as np
import pytest
from scipy.stats import entropy

from tersenet.coding import entropy_bytes
from tersenet.coding.histogram import entropy_bits, histogram, zero_split
from tersenet.core.code import Symbols


def test_entropy_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).geometric(0.2, 5000).astype(np.int32)
    counts = np.unique(values, return_counts=True)[1]
    expected = 5000 * entropy(counts, base=2) / 8
    assert entropy_bytes(Symbols(values, 1000)) == pytest.approx(expected, rel=1e-12)


def test_entropy_of_known_sources() -> None:
    assert entropy_bytes(Symbols(np.tile(np.arange(16, dtype=np.int32), 10), 16)) == pytest.approx(160 * 4 / 8)
    assert entropy_bytes(Symbols(np.zeros(99, dtype=np.int32), 5)) == 0.0
    assert entropy_bytes(Symbols(np.zeros(0, dtype=np.int32), 5)) == 0.0


def test_positions_and_values_add_up_by_the_chain_rule() -> None:
    found = histogram(np.array([0] * 90 + [1, 2] * 5, dtype=np.int32), 3)
    positions, values = zero_split(found)
    assert positions == pytest.approx(-90 * math.log2(0.9) - 10 * math.log2(0.1))
    assert values == pytest.approx(10.0)
    assert positions + values == pytest.approx(entropy_bits(found.counts))


def test_a_huge_alphabet_is_counted_without_a_huge_table() -> None:
    found = histogram(np.array([5, 2**31 - 2, 5], dtype=np.int32), 2**31 - 1)
    assert found.used.tolist() == [5, 2**31 - 2]
    assert found.counts.tolist() == [2, 1]
