"""Exactly as many as asked, ties by position, against brute force and torch.nn.utils.prune."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as reference

from tersenet.prune.criteria import CRITERIA
from tersenet.prune.select import above_deviation, highest, highest_of_all, kept_count

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30).map(torch.tensor)


def brute_force(values: list[float], count: int) -> list[int]:
    """Positions of the `count` highest, earlier ones first among equals."""
    return sorted(sorted(range(len(values)), key=lambda place: (-values[place], place))[:count])


@given(scores, st.data())
def test_highest_is_exact_and_takes_the_earlier_of_equals(values, data):
    count = data.draw(st.integers(0, len(values)))
    mask = highest(values, count)
    assert mask.nonzero().flatten().tolist() == brute_force(values.tolist(), count)


def test_highest_never_takes_minus_infinity():
    assert highest(torch.tensor([-torch.inf, 1.0, -torch.inf]), 3).tolist() == [False, True, False]


@given(st.lists(scores, min_size=1, max_size=4), st.data())
def test_highest_of_all_is_brute_force_with_one_for_each(layers, data):
    flat = [value for layer in layers for value in layer.tolist()]
    count = data.draw(st.integers(len(layers), len(flat)))
    masks, rescued = highest_of_all(layers, count)
    assert sum(int(mask.sum()) for mask in masks) == count
    assert all(bool(mask.any()) for mask in masks)
    plain = set(brute_force(flat, count))
    chosen = set(torch.cat(masks).nonzero().flatten().tolist())
    starts = [sum(len(layer) for layer in layers[:place]) for place in range(len(layers))]
    empty = [p for p, s in enumerate(starts) if not plain & set(range(s, s + len(layers[p])))]
    assert rescued == empty
    if not empty:
        assert chosen == plain
    for place in empty:
        assert (chosen - plain) >= {starts[place] + int(layers[place].argmax())}


def test_fewer_than_the_weights_gives_each_one():
    masks, rescued = highest_of_all([torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])], 1)
    assert [mask.tolist() for mask in masks] == [[False, True], [False, True]] and rescued == [0]


@given(st.integers(1, 10_000), st.floats(0.0001, 0.9999))
def test_kept_count(entries, sparsity):
    kept = kept_count(entries, sparsity)
    assert kept == max(entries - round(sparsity * entries), 1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.92])
def test_same_masks_as_torch_per_layer_and_global(share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    weights = [layer.weight.detach().clone() for layer in model]
    magnitude = CRITERIA["magnitude"]
    for layer, weight in zip(model, weights, strict=True):
        ours = highest(magnitude(weight, None), kept_count(weight.numel(), share))
        reference.l1_unstructured(layer, "weight", share)
        assert torch.equal(ours, layer.weight_mask.bool())
        reference.remove(layer, "weight")
        layer.weight.data = weight.clone()
    total = sum(weight.numel() for weight in weights)
    ours, _ = highest_of_all([magnitude(weight, None) for weight in weights], kept_count(total, share))
    reference.global_unstructured([(layer, "weight") for layer in model], reference.L1Unstructured, amount=share)
    assert all(torch.equal(mask, layer.weight_mask.bool()) for mask, layer in zip(ours, model, strict=True))


def test_above_deviation_by_hand():
    weight = torch.tensor([3.0, -1.0, 1.0, -3.0, 100.0])
    support = torch.tensor([True, True, True, True, False])
    sigma = 5**0.5  # of 3, −1, 1, −3: mean 0, variance (9 + 1 + 1 + 9)/4
    assert above_deviation(weight, support, 0.99 / sigma) == 4
    assert above_deviation(weight, support, 1.01 / sigma) == 2
    assert above_deviation(weight, support, 3.01 / sigma) == 1, "at least one"


def test_criteria_by_hand():
    weight, generator = torch.tensor([[1.0, -3.0], [2.0, 0.0]]), torch.Generator()
    assert CRITERIA["magnitude"](weight, generator).tolist() == [[1, 3], [2, 0]]
    assert CRITERIA["square"](weight, generator).tolist() == [[1, 9], [4, 0]]
    assert CRITERIA["smallest_kept"](weight, generator).tolist() == [[-1, -3], [-2, 0]]
    noise = [CRITERIA["random"](weight * s, torch.Generator().manual_seed(3)) for s in (1, 7)]
    assert torch.equal(*noise) and noise[0].unique().numel() == 4
    tiny = torch.tensor([1e-30, 2e-30])
    assert CRITERIA["square"](tiny, generator).diff() > 0
