"""The Laplacian's table against a computation of its own, and against the two bounds that enclose it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tersenet.bounds import water_fill
from tersenet.bounds.blahut_arimoto import blahut_arimoto
from tersenet.bounds.laplace import DUALS, POWER, SLOPES, dual, laplace_bits


def test_entries_again_on_another_grid():
    """Equal cells, where the table was made on cells of growing width."""
    scale, width = 1 / math.sqrt(2), 0.16
    centres = np.arange(-60, 61) * width
    mass = np.exp(-np.abs(centres) / scale)
    mass /= mass.sum()
    errors = (centres[:, None] - centres) ** 2
    for slope, entry in zip(SLOPES[1:4], DUALS[1:4], strict=True):
        found = blahut_arimoto(mass, errors, slope, precision=5e-3)
        assert found.least + slope * found.distortion == pytest.approx(entry, abs=0.01)


def test_dual_is_concave_and_rises():
    slopes = np.array(SLOPES)
    values = dual(slopes)
    steps = np.diff(values) / np.diff(slopes)
    assert (steps > 0).all() and (np.diff(steps) < 1e-3).all()
    assert (values >= np.array(DUALS) - 1e-9).all()


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.9])
def test_between_shannon_and_gaussian(share):
    """Of all densities with a variance the Gaussian needs the most bits; Shannon's bound never more than there is."""
    counts, variances, weights = np.array([100.0, 50.0]), np.array([1.0, 3.0]), np.array([2.0, 0.1])
    distortion = share * float(np.sum(counts * variances * weights))
    found = laplace_bits(counts, variances, weights, distortion)
    shannon = water_fill(counts, variances * POWER, weights, distortion).bits
    gaussian = water_fill(counts, variances, weights, distortion).bits
    assert shannon - 1e-6 * (1 + shannon) <= found <= gaussian + 1e-9
    if share > 0.6:
        assert found > shannon + 0.01  # saying where the large ones are


def test_one_group_at_a_point_of_the_table():
    """R(0.64503) is 0.2416 to 0.2426 bits."""
    found = laplace_bits(np.ones(1), np.array([4.0]), np.array([3.0]), 0.64503 * 12)
    assert found == pytest.approx(0.2416, abs=5e-4)


def test_nothing_to_code():
    assert laplace_bits(np.ones(2), np.zeros(2), np.ones(2), 1.0) == 0
    assert laplace_bits(np.ones(1), np.ones(1), np.ones(1), 5.0) == 0
    with pytest.raises(ValueError, match="positive"):
        laplace_bits(np.ones(1), np.ones(1), np.ones(1), 0.0)
