"""The squared hinge loss against scikit-learn's and by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import hinge_loss

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.training import Training
from tersenet.train.objectives import objective_for


def squared_hinge(output, target, **options):
    return objective_for(Training(epochs=1, objective="squared_hinge", **options))(output, target)


def test_by_hand():
    """Class 0 of three: margins 1 − 0.5, 1 + (−2), 1 + 0.25."""
    loss = squared_hinge(torch.tensor([[0.5, -2.0, 0.25]]), torch.tensor([0]))
    assert float(loss) == pytest.approx((0.5**2 + 0 + 1.25**2) / 3)


def test_each_output_is_a_classifier_of_two():
    """The hinge of one entry at a time by scikit-learn, squared, over all outputs."""
    output, target = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 4
    each = []
    for n, c in product(range(7), range(4)):
        margin = float(output[n, c])
        pair = [-9, margin] if target[n] == c else [margin, 9]  # scikit-learn wants both classes; ±9 costs nothing
        each.append((2 * hinge_loss([-1, 1], pair)) ** 2)
    assert float(squared_hinge(output, target)) == pytest.approx(float(np.mean(each)), rel=1e-6)


def test_classes_along_the_second_axis():
    output, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    flat = squared_hinge(output.movedim(1, -1).reshape(-1, 3), target.reshape(-1))
    torch.testing.assert_close(squared_hinge(output, target), flat)


def test_gradient_pulls_the_class_up_and_the_others_down_within_the_margin():
    output = torch.tensor([[0.5, -2.0, 0.25]], requires_grad=True)
    squared_hinge(output, torch.tensor([0])).backward()
    torch.testing.assert_close(output.grad, torch.tensor([[-1.0, 0.0, 2.5]]) / 3)


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ModelError, match=r"the output is \(2, 3\) and the target torch.float32 of shape \(2, 3\)"):
        squared_hinge(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ModelError, match="takes an output"):
        squared_hinge(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(RecipeError, match="label_smoothing"):
        squared_hinge(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), label_smoothing=0.1)
