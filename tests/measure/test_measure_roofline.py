"""The roofline: closed forms, and constants that this machine can be held to."""

import pytest
import torch

from tersenet.core.profile import Cost, Roof, intensity, total
from tersenet.measure.roofline import measure_roof

ROOF = Roof(flops=100.0, bandwidth=10.0)


def cost(macs, weights=0, activations=0):
    return Cost(
        macs=macs,
        nonzero=macs,
        parameters=0,
        outputs=0,
        output_bytes=0,
        live_bytes=weights,
        bytes=0,
        weight_traffic=weights,
        activation_traffic=activations,
    )


@pytest.mark.parametrize(
    ("layer", "seconds", "bound", "flops_per_byte"),
    [
        (cost(500, 30, 20), 10.0, "arithmetic", 20.0),
        (cost(250, 30, 20), 5.0, "arithmetic", 10.0),  # at the bend: 100 / 10
        (cost(249, 30, 20), 5.0, "weights", 9.96),
        (cost(10, 20, 30), 5.0, "activations", 0.4),
        (cost(0, 0, 40), 4.0, "activations", 0.0),
        (cost(None, 10, 10), None, None, None),
    ],
)
def test_bounds(layer, seconds, bound, flops_per_byte):
    assert ROOF.seconds(layer) == seconds
    assert ROOF.bound(layer) == bound
    assert intensity(layer) == (None if flops_per_byte is None else pytest.approx(flops_per_byte))


def test_attainable_speed_is_the_lower_of_the_two():
    """Williams et al. 2009: min(peak, bandwidth × intensity)."""
    for layer in (cost(500, 30, 20), cost(10, 20, 30)):
        attained = 2 * layer.macs / ROOF.seconds(layer)
        assert attained == pytest.approx(min(ROOF.flops, ROOF.bandwidth * intensity(layer)))


def test_totals():
    both = total([cost(5, 1, 2), cost(None, 3, 4)])
    assert (both.macs, both.traffic, both.live_bytes, both.energy, both.seconds) == (5, 10, 3, None, None)


def test_the_machines_constants_are_of_the_right_order():
    """Any processor since decades multiplies faster than it reads floats; random numbers go on as if nothing was."""
    before = torch.get_rng_state()
    roof = measure_roof(products=5, copies=2)
    assert 1e8 < roof.bandwidth < 1e13 and 1e8 < roof.flops < 1e15
    assert roof.flops > roof.bandwidth / 4
    assert torch.equal(before, torch.get_rng_state())
