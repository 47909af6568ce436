"""Entropy estimates against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tersenet.bounds.density import gaussian_entropy, laplace_entropy, laplace_scale, spacing_entropy


@pytest.mark.parametrize(
    ("formula", "reference"),
    [(gaussian_entropy(0.09), stats.norm(scale=0.3)), (laplace_entropy(0.2), stats.laplace(scale=0.2))],
)
def test_formulas_and_estimator(formula, reference):
    assert formula == pytest.approx(reference.entropy() / math.log(2))
    drawn = reference.rvs(20_000, random_state=0)
    assert spacing_entropy(drawn) == pytest.approx(formula, abs=0.03)


def test_estimator_is_unbiased_for_uniform_values():
    generator = np.random.default_rng(0)
    for m in (1, 3, 7):
        found = [spacing_entropy(generator.uniform(0, 4, 40), m) for _ in range(2000)]
        assert np.mean(found) == pytest.approx(2, abs=4 * np.std(found) / math.sqrt(2000))


def test_estimator_scales_and_shifts():
    drawn = np.random.default_rng(1).normal(size=500)
    assert spacing_entropy(8 * drawn - 3) == pytest.approx(spacing_entropy(drawn) + 3)


def test_no_density():
    assert spacing_entropy(np.zeros(50)) == -math.inf
    assert spacing_entropy(np.repeat(np.arange(4.0), 30)) == -math.inf
    assert gaussian_entropy(0.0) == laplace_entropy(0.0) == -math.inf
    with pytest.raises(ValueError, match="2 values"):
        spacing_entropy(np.ones(1))
    with pytest.raises(ValueError, match="m is 9"):
        spacing_entropy(np.arange(5.0), 9)


def test_laplace_scale():
    drawn = stats.laplace(loc=3, scale=0.7).rvs(50_000, random_state=0)
    assert laplace_scale(drawn) == pytest.approx(stats.laplace.fit(drawn)[1])
