"""Groups by explicit loops, proximal steps by minimisers and optimality conditions, gradients by differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize
from torch import nn

from tersenet.forms import match
from tersenet.prune import structure
from tersenet.prune.groups import FAMILIES, by_role, group_size, norms
from tersenet.prune.lasso import Term, penalty, shrink_all, shrunk


def seeded(layer):
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layer


def by_loops(layer) -> dict[str, list[list[tuple[int, ...]]]]:
    """Index tuples of every group, from which output reads which input at which place."""
    weight = layer.weight
    convolution = not isinstance(layer, nn.Linear | nn.Embedding)
    split = layer.groups if convolution else 1
    swapped = isinstance(layer, nn.Embedding) or (convolution and layer.transposed)
    found: dict[str, dict[tuple, list]] = {family: {} for family in FAMILIES}
    for index in itertools.product(*map(range, weight.shape)):
        a, b, *place = index
        block, inner = divmod(a, weight.shape[0] // split)
        output, channel = ((block, b), (block, inner)) if swapped else ((block, inner), (block, b))
        keys = {"elements": index, "shapes": (channel, *place), "channels": channel, "filters": output, "depth": ()}
        for family, key in keys.items():
            found[family].setdefault(key, []).append(index)
    return {family: list(groups.values()) for family, groups in found.items()}


LAYERS = {
    "conv": lambda: nn.Conv2d(3, 4, (2, 3)),
    "conv1d": lambda: nn.Conv1d(2, 3, 4),
    "grouped": lambda: nn.Conv2d(4, 6, 2, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 2),
    "transposed, grouped": lambda: nn.ConvTranspose1d(4, 6, 2, groups=2),
    "linear": lambda: nn.Linear(5, 3),
    "embedding": lambda: nn.Embedding(5, 3),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return seeded(request.param())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_those_of_explicit_loops(layer, family, layout):
    if layer.weight.ndim == 4:
        layer.to(memory_format=layout)
    (target,) = match(layer)
    view = by_role(target, layer.weight.detach())
    assert view.data_ptr() == layer.weight.data_ptr(), "a view, so that steps act on the weight itself"
    expected = [
        float(sum(layer.weight[index].item() ** 2 for index in group)) ** 0.5 for group in by_loops(layer)[family]
    ]
    assert sorted(norms(view, family).flatten().tolist()) == pytest.approx(sorted(expected))
    assert group_size(view, family) == layer.weight.numel() / len(expected)


def test_channels_of_lenet_are_counted_as_in_the_paper():
    """Table 1 and 2: 20—50 filters, 1—20 channels, filter sizes 25—500."""
    net = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.BatchNorm2d(20), nn.Conv2d(20, 50, 5), nn.Flatten(), nn.Linear(800, 500)
    )
    with torch.no_grad():
        net[0].weight[5:] = 0
        net[0].weight[:, :, 4, 1:] = 0
        net[1].weight[7:] = 0
        net[2].weight[:, 4:] = 0
        net[4].weight[:, ::2] = 0
        net[4].weight[0] = 0
    assert [str(row) for row in structure(net)] == [
        "0: 5 of 20 filters, 1 of 1 channels, 21 of 25 filter shapes left",
        "1: 7 of 20 γ left",
        "2: 50 of 50 filters, 4 of 20 channels, 100 of 500 filter shapes left",
        "4: 499 of 500 rows, 400 of 800 columns left",
    ]


def test_channels_of_a_grouped_convolution_belong_to_one_group_each():
    layer = nn.Conv2d(4, 6, 1, groups=2)
    with torch.no_grad():
        layer.weight[:3, 1] = 0  # what the first three filters make of channel 1; channel 3 is read by the others
    (row,) = structure(layer)
    assert (str(row.channels), str(row.filters)) == ("3 of 4", "6 of 6")


vectors = hnp.arrays(np.float64, st.integers(1, 4), elements=st.floats(-3, 3, width=32))


@given(vectors, st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_proximal_step_is_the_minimiser(w, amount):
    """½‖x − w‖² + t‖x‖ by a simplex search from several starts; at 0 and elsewhere."""
    ours = shrunk(torch.from_numpy(w).view(1, 1, -1), "filters", amount).flatten().numpy()

    def objective(x):
        return 0.5 * ((x - w) ** 2).sum() + amount * np.linalg.norm(x)

    starts = (np.zeros_like(w), w, w / 2)
    found = min(
        (minimize(objective, s, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}) for s in starts),
        key=lambda result: result.fun,
    )
    assert objective(ours) <= found.fun + 1e-9
    assert np.abs(ours - found.x).max() < 1e-3


@given(vectors, st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_soft_threshold_is_that_of_each_entry(w, amount):
    ours = shrunk(torch.from_numpy(w).view(1, 1, -1), "elements", amount).flatten().numpy()
    assert ours == pytest.approx(np.sign(w) * np.maximum(np.abs(w) - amount, 0), abs=1e-12)


@given(
    hnp.arrays(np.float32, (1, 3, 2, 4), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from(FAMILIES),
    st.floats(0, 1e6),
)
@settings(max_examples=150, deadline=None)
def test_no_norm_grows_and_zeros_stay(w, family, amount):
    view = torch.from_numpy(w)
    after = shrunk(view, family, amount)
    before_norms, after_norms = norms(view, family), norms(after, family)
    assert bool((after_norms <= before_norms * (1 + 1e-6)).all())
    assert bool((after[view == 0] == 0).all())
    assert bool((after_norms[before_norms <= amount * (1 - 1e-6)] == 0).all())
    assert not bool(torch.signbit(after[after == 0]).any()), "zeros are +0"
    if amount == 0:
        assert torch.equal(after, view)
    assert torch.allclose(shrunk(-view, family, amount), -after)


def test_nested_families_one_after_the_other_are_their_common_proximal_step():
    """Optimality of ½‖x − w‖² + a‖x‖₁ + b·Σ_filters‖x_n‖ + c‖x‖: 0 in its subdifferential (checked entry by entry)."""
    layer = seeded(nn.Linear(3, 4))
    w, a, b, c = layer.weight.detach().clone(), 0.3, 0.4, 0.5
    with torch.no_grad():
        layer.weight[1] *= 0.3
        w[1] *= 0.3
    (target,) = match(layer)
    shrink_all([Term(target, "elements", a), Term(target, "filters", b), Term(target, "depth", c)], 1.0)
    x = layer.weight.detach()
    assert 0 < int((x == 0).sum()) < 12 and not x[1].any()
    for row, given_row in zip(x, w, strict=True):
        if not row.any():  # zero: what soft thresholding leaves of w is within b
            assert float((given_row.abs() - a).clamp_min(0).norm()) <= b
            continue
        smooth = row - given_row + b * row / row.norm() + c * row / x.norm()
        assert torch.allclose(smooth[row != 0], -a * row[row != 0].sign())
        assert bool((smooth[row == 0].abs() <= a).all())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_penalty_and_its_gradient(layer, family, scaled):
    """Against the sum over loops, w_g/‖w_g‖ in closed form, and 0 where a group is zero."""
    groups = by_loops(layer)[family]
    with torch.no_grad():
        for index in groups[0]:
            layer.weight[index] = 0.0
    (target,) = match(layer)
    value = penalty([Term(target, family, 0.7, scaled)], share=0.5)
    (gradient,) = torch.autograd.grad(value, layer.weight)
    expected, total = torch.zeros_like(gradient), 0.0
    for group in groups:
        norm = sum(layer.weight[index].item() ** 2 for index in group) ** 0.5
        factor = 0.5 * 0.7 * (len(group) ** 0.5 if scaled else 1.0)
        total += factor * norm
        for index in group:
            expected[index] = factor * layer.weight[index].item() / norm if norm else 0.0
    assert value.item() == pytest.approx(total)
    assert torch.allclose(gradient, expected)
