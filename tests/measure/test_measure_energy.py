"""The energy estimate against the table and sums by hand."""

import pytest
import torch
from torch import nn

from tersenet.measure.energy import energy, on_chip
from tersenet.measure.profile import costs, profile


def test_the_table():
    """Horowitz, as in figure 1 of Han et al. 2015: picojoules of 32-bit operations."""
    assert energy(1, 0, 0).total == pytest.approx(3.7 + 0.9)
    assert energy(1, 0, 0, integer=True).total == pytest.approx(3.1 + 0.1)
    assert energy(0, 4, 0).total == energy(0, 0, 4).total == 640
    assert energy(0, 4, 0, weights_on_chip=True).total == energy(0, 0, 4, activations_on_chip=True).total == 5
    assert energy(0, 1, 0).weights == 160  # a byte is a quarter of a word


def test_the_papers_example():
    """Han et al. 2015, section 1: 1 G connections at 20 Hz need 20 Hz × 1 G × 640 pJ = 12.8 W from DRAM alone."""
    assert 20 * energy(0, 4 * 10**9, 0).weights * 1e-12 == pytest.approx(12.8)


@pytest.mark.parametrize(
    ("weights", "activations", "sram", "expected"),
    [
        (100, 50, 0, (False, False)),
        (100, 50, 99, (False, True)),
        (100, 50, 100, (True, False)),
        (100, 50, 149, (True, False)),
        (100, 50, 150, (True, True)),
        (0, 50, 0, (False, False)),
    ],
)
def test_what_fits(weights, activations, sram, expected):
    assert on_chip(weights, activations, sram) == expected


def test_a_network_by_hand():
    """Linear 8→4 with bias on 2 inputs, then ReLU: 64 MACs, 36 weights, 16 + 8 values, then 8 + 8."""
    network = profile(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.randn(2, 8))

    def of(sram, **options):
        return [cost.energy for cost in costs(network, sram, **options).values()]

    linear, relu = of(0)
    assert (linear.arithmetic, linear.weights) == (pytest.approx(64 * 4.6), 36 * 640)
    assert (linear.activations, relu.activations, relu.arithmetic) == (24 * 640, 16 * 640, 0)
    fits = of(36 * 4)
    assert (fits[0].weights, fits[0].activations) == (36 * 5, 24 * 640)
    both = of(36 * 4 + network.peak)
    assert (both[0].weights, both[0].activations) == (36 * 5, 24 * 5)
    stored = {"0.weight": 10, "0.bias": 8}
    compressed = of(18, stored=stored)
    assert compressed[0].weights == pytest.approx(18 / 4 * 5)  # as stored, and now it fits
    assert of(17, stored=stored)[0].weights == pytest.approx(18 / 4 * 640)


def test_integers_only_where_weights_are_whole_numbers_and_the_caller_says_so():
    network = profile(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4)), torch.randn(1, 8))
    first, second = costs(network, integer={"0.weight"}).values()
    assert first.energy.arithmetic == pytest.approx(32 * 3.2)
    assert second.energy.arithmetic == pytest.approx(16 * 4.6)


def test_a_weight_that_is_read_again_travels_again_and_as_it_is_stored():
    first, again = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    again.weight = first.weight
    found = costs(profile(nn.Sequential(first, again), torch.randn(1, 4)), stored={"0.weight": 8})
    assert [cost.energy.weights for cost in found.values()] == [8 / 4 * 640] * 2
    assert [cost.bytes for cost in found.values()] == [8, 0]
