"""The certificate: its inverse, its order, and that it covers in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.bounds import certificate, kl, kl_inverse
from tersenet.bounds.pac_bayes import self_delimiting_bits

SHARES = st.floats(0, 1)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_inverse(a, b):
    q, p = sorted((a, b))
    found = kl_inverse(q, kl(q, p))
    assert found >= p - 1e-9
    assert kl(q, found) == pytest.approx(kl(q, p), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(SHARES, st.floats(0, 5), st.floats(0, 5))
def test_monotone_and_within_reach(q, a, b):
    small, large = sorted((a, b))
    assert q <= kl_inverse(q, small) <= kl_inverse(q, large) <= 1
    assert kl_inverse(q, small) <= q + math.sqrt(small / 2) + 1e-7  # Pinsker: never weaker than Hoeffding


def test_closed_forms():
    assert kl_inverse(0.0, 0.3) == pytest.approx(1 - math.exp(-0.3))  # no error seen: −ln(1 − p) = budget
    assert kl(0.5, 0.25) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert (kl(0.3, 0.3), kl(0.1, 0.0), kl(0.1, 1.0), kl(1.0, 1.0)) == (0, math.inf, math.inf, 0)


def test_worked_example():
    found = certificate(0.002, 8 * 3700, 55_000, 0.05)
    assert found.complexity == pytest.approx((29_600 * math.log(2) + math.log(20)) / 55_000)
    assert kl(0.002, found.bound) == pytest.approx(found.complexity)
    assert found.bound < found.hoeffding == pytest.approx(0.002 + math.sqrt(found.complexity / 2))
    assert certificate(0.1, 1e6, 100).bound == pytest.approx(1)
    for wrong in ((1.1, 1, 1, 0.1), (0.1, -1, 1, 0.1), (0.1, 1, 0, 0.1), (0.1, 1, 1, 1.0)):
        with pytest.raises(ValueError, match="no certificate"):
            certificate(*wrong)


@pytest.mark.parametrize("examples", [30, 200])
def test_it_covers(examples):
    """The best of 255 coins on each sample, with names from a prefix-free code; δ = 0.2 so that failures would show."""
    generator, delta, trials = np.random.default_rng(0), 0.2, 4000
    bits = np.repeat(np.arange(1, 9), 2 ** np.arange(8)) * 2 - 1  # Elias γ of 1 … 255
    assert np.sum(2.0**-bits) <= 1
    truth = generator.uniform(0.2, 0.6, bits.size)
    wrong = generator.binomial(examples, truth, (trials, bits.size))
    failed = np.zeros(trials, bool)  # any coin at all, hence whichever one is chosen
    for length in np.unique(bits):
        bounds = [certificate(k / examples, length, examples, delta).bound for k in range(examples + 1)]
        failed |= (truth > np.array(bounds)[wrong])[:, bits == length].any(1)
    assert 0 < failed.mean() <= delta


def test_self_delimiting():
    lengths = [self_delimiting_bits(bits) for bits in range(1, 2000)]
    assert lengths[:4] == [2, 5, 6, 9]
    kraft = sum(2.0 ** (bits - length) for bits, length in enumerate(lengths[:1000], start=1))
    assert kraft <= 1  # 2^bits strings of each length
