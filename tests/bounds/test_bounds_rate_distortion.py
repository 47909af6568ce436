"""Water-filling against closed forms, brute force and a general-purpose optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from tersenet.bounds import entropy_power, water_fill, water_fill_rate
from tersenet.bounds.density import gaussian_entropy, laplace_entropy
from tersenet.bounds.rate_distortion import linear_model_rate, predicted_loss_change
from tersenet.bounds.sources import (
    binary_rate,
    gaussian_rate,
    laplace_rate,
    laplace_refinement_rate,
    laplace_zero_share,
)

POSITIVE = st.floats(1e-3, 1e3)
GROUPS = st.lists(st.tuples(st.integers(1, 1000), POSITIVE, POSITIVE), min_size=1, max_size=6)


def arrays(groups) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column, float) for column in zip(*groups, strict=True))


def test_one_gaussian_group_is_the_closed_form():
    assert entropy_power(gaussian_entropy(0.3)) == pytest.approx(0.3)
    for distortion in (0.001, 0.1, 0.3, 2.0):
        found = water_fill(np.array([10.0]), np.array([0.3]), np.array([2.0]), 10 * 2 * distortion)
        assert found.bits == pytest.approx(10 * gaussian_rate(0.3, distortion))


@settings(deadline=None, max_examples=40)
@given(GROUPS, st.floats(1e-3, 1.5))
def test_level_is_found_exactly(groups, share):
    counts, powers, weights = arrays(groups)
    most = float(np.sum(counts * powers * weights))
    found = water_fill(counts, powers, weights, share * most)
    assert found.distortion == pytest.approx(min(share, 1) * most)
    assert np.sum(counts * weights * found.distortions) == pytest.approx(found.distortion)
    for power, weight, distortion, rate in zip(powers, weights, found.distortions, found.rates, strict=True):
        assert distortion == pytest.approx(min(found.level / weight, power))
        assert rate == pytest.approx(gaussian_rate(power, distortion), abs=1e-9)
    assert found.bits == pytest.approx(float(counts @ found.rates))
    if found.bits > 1e-6:  # and back
        back = water_fill_rate(counts, powers, weights, found.bits)
        assert back.distortion == pytest.approx(found.distortion, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=4),
       st.floats(0.05, 0.9))  # fmt: skip
def test_no_other_allocation_is_cheaper(groups, share):
    counts, powers, weights = arrays(groups)
    budget = share * float(np.sum(counts * powers * weights))

    def bits(logs: np.ndarray) -> float:
        return float(np.sum(counts * 0.5 * np.maximum(0, np.log2(powers) - logs)))

    found = optimize.minimize(
        bits,
        np.log2(powers * share),
        constraints={"type": "ineq", "fun": lambda logs: 1 - np.sum(counts * weights * 2.0**logs) / budget},
        bounds=[(-20, math.log2(power)) for power in powers],
        method="SLSQP",
    )
    ours = water_fill(counts, powers, weights, budget).bits
    assert ours <= found.fun + 1e-4 * (1 + ours)
    generator = np.random.default_rng(0)
    for _ in range(50):  # any other division of the same error
        parts = generator.dirichlet(np.ones(len(counts))) * budget / (counts * weights)
        assert bits(np.log2(np.maximum(parts, 1e-300))) >= ours - 1e-9


def test_slope_is_the_derivative():
    groups = arrays([(5, 1.0, 2.0), (7, 0.1, 1.0), (3, 4.0, 0.5)])
    found = water_fill(*groups, 3.0)
    ahead = water_fill_rate(*groups, found.bits + 1e-5)
    assert (found.distortion - ahead.distortion) / 1e-5 == pytest.approx(found.slope, rel=1e-4)


def test_groups_that_cost_nothing():
    counts, powers, weights = arrays([(5, 0.0, 1.0), (5, 1.0, 0.0), (5, 1.0, 1.0)])
    found = water_fill(counts, powers, weights, 1.25)
    assert list(found.rates) == [0, 0, 1]
    assert water_fill(counts[:2], powers[:2], weights[:2], 1.0).bits == 0
    assert water_fill_rate(counts[:2], powers[:2], weights[:2], 10).distortion == 0
    assert water_fill(counts, powers, weights, 5.0).bits == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [({"distortion": 0}, "positive"), ({"counts": np.array([0.0])}, "counts"), ({"powers": np.ones(2)}, "one row")],
)
def test_mistakes(change, words):
    one = np.ones(1)
    with pytest.raises(ValueError, match=words):
        water_fill(**{"counts": one, "powers": one, "weights": one, "distortion": 1.0, **change})


def test_linear_model_with_independent_weights_is_the_published_formula():
    """Gao et al. 2019, theorem 1, solved for μ by a root finder of its own."""
    variances, inputs = np.array([1.0, 0.5, 2.0, 0.1]), np.array([3.0, 0.2, 1.0, 1.5])
    for distortion in (0.05, 0.6, 3.0):

        def errors(mu: float) -> np.ndarray:
            return np.where(mu < inputs * variances, mu / inputs, variances)

        target = distortion
        mu = optimize.brentq(lambda mu: float(inputs @ errors(mu)) - target, 1e-9, 10)  # noqa: B023
        expected = 0.5 * np.log2(np.prod(variances)) - 0.5 * np.sum(np.log2(errors(mu)))
        assert linear_model_rate(np.diag(variances), np.diag(inputs), distortion) == pytest.approx(expected)


def test_linear_model_sees_correlations():
    """Two weights that are always equal are one number: ½·log2(σ² · 1ᵀΣ_x·1 / D)."""
    inputs = np.array([[2.0, 0.5], [0.5, 1.0]])
    found = linear_model_rate(np.full((2, 2), 0.7), inputs, 0.1)
    assert found == pytest.approx(gaussian_rate(0.7 * inputs.sum(), 0.1))


def test_laplace_refinement_and_zeros():
    assert laplace_rate(2.0, 0.5) == 2
    assert laplace_rate(2.0, 3.0) == 0
    for fine in (0.5, 0.1):  # in two stages as cheap as in one
        assert laplace_rate(2.0, 1.0) + laplace_refinement_rate(1.0, fine) == pytest.approx(laplace_rate(2.0, fine))
    with pytest.raises(ValueError, match="refinement"):
        laplace_refinement_rate(0.1, 0.5)
    # the published decoder, simulated: V is zero or Laplacian, V + noise has the source's density and error D
    generator, scale, distortion = np.random.default_rng(0), 0.8, 0.3
    kept = generator.random(400_000) >= laplace_zero_share(scale, distortion)
    noise = generator.laplace(scale=distortion, size=kept.size)
    source = kept * generator.laplace(scale=scale, size=kept.size) + noise
    assert np.mean(np.abs(source)) == pytest.approx(scale, rel=0.01)
    assert np.mean(source**2) == pytest.approx(2 * scale**2, rel=0.02)
    assert np.mean(np.abs(noise)) == pytest.approx(distortion, rel=0.01)
    assert laplace_rate(scale, distortion) == pytest.approx(
        laplace_entropy(scale) - laplace_entropy(distortion)
    )  # I(source; V) = h(source) − h(noise)


def test_binary_rate():
    assert binary_rate(0.5, 0.0) == 1
    assert binary_rate(0.5, 0.11) == pytest.approx(0.5, abs=1e-3)
    assert binary_rate(0.05, 0.05) == 0


def test_predicted_loss_change():
    fisher = np.array([2.0, 0.0])
    assert predicted_loss_change(fisher, np.array([1.0, 5.0]), np.array([0.5, 0.0])) == 0.25
