"""Two-part and prequential lengths, in closed form."""

from __future__ import annotations

import math

import pytest

from tersenet.bounds import prequential_bits, two_part


def test_two_part():
    found = two_part(100, math.log(4), 1000, 10)
    assert found.model == 800
    assert found.labels == pytest.approx(2000)  # two bits a label
    assert found.uniform == pytest.approx(1000 * math.log2(10))
    assert found.total == pytest.approx(2800)


def test_prequential():
    assert prequential_bits([8], [], 4) == 16  # the first block is uniform
    # a model that halves its loss with each block: 2, 1 and ½ bits a label
    losses = [math.log(4), math.log(2), math.log(2) / 2]
    assert prequential_bits([8, 8, 16, 32], losses, 16) == pytest.approx(32 + 16 + 16 + 16)
    with pytest.raises(ValueError, match="2 blocks need 1 losses, not 2"):
        prequential_bits([1, 1], [0.1, 0.1], 2)
