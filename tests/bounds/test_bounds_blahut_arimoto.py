"""Computed rate-distortion functions against the closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tersenet.bounds.blahut_arimoto import blahut_arimoto
from tersenet.bounds.sources import binary_rate, gaussian_rate, laplace_rate


@pytest.mark.parametrize("p", [0.5, 0.2])
@pytest.mark.parametrize("slope", [1.5, 3.0, 6.0])
def test_coin(p, slope):
    found = blahut_arimoto(np.array([1 - p, p]), 1 - np.eye(2), slope, precision=1e-7)
    distortion = 1 / (1 + 2**slope)  # where log2((1 − D) / D) is the slope
    if distortion < p:
        assert found.distortion == pytest.approx(distortion, abs=1e-5)
        assert found.rate == pytest.approx(binary_rate(p, distortion), abs=1e-5)
    else:  # so flat that saying nothing is best
        assert found.rate == pytest.approx(0, abs=1e-5)


def grid(reach: float, count: int) -> np.ndarray:
    return np.linspace(-reach, reach, count)


@pytest.mark.parametrize("distortion", [0.1, 0.4])
def test_gaussian(distortion):
    x = grid(5, 161)
    density = np.exp(-(x**2) / 2)
    slope = 1 / (2 * math.log(2) * distortion)
    found = blahut_arimoto(density / density.sum(), (x[:, None] - x) ** 2, slope, precision=2e-3)
    assert found.distortion == pytest.approx(distortion, rel=0.02)
    assert found.least - 2e-3 <= gaussian_rate(1.0, found.distortion) <= found.rate + 2e-3


def test_laplace_under_absolute_error():
    x = grid(12, 241)
    density = np.exp(-np.abs(x))
    found = blahut_arimoto(density / density.sum(), np.abs(x[:, None] - x), 1 / (math.log(2) * 0.5), precision=2e-3)
    assert found.distortion == pytest.approx(0.5, rel=0.02)
    assert found.rate == pytest.approx(laplace_rate(1.0, found.distortion), abs=1e-2)


def test_the_tangent_is_below_the_whole_curve():
    found = blahut_arimoto(np.array([0.7, 0.3]), 1 - np.eye(2), 2.0)
    for distortion in np.linspace(0.01, 0.3, 20):
        assert found.least - 2.0 * (distortion - found.distortion) <= binary_rate(0.3, distortion) + 1e-9
    assert found.least <= found.rate


def test_too_few_iterations():
    with pytest.raises(ArithmeticError, match="after 1 iterations"):
        blahut_arimoto(np.array([0.9, 0.1]), 1 - np.eye(2), 5.0, precision=1e-12, iterations=1)
