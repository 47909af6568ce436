"""A model that does not fit its data is told so before anything is trained, and is left as it was."""

import pytest
import torch
from torch import nn

from tersenet.core.errors import DataError
from tersenet.data import as_splits, check_fits

X = torch.rand(20, 1, 8, 8)
Y = torch.arange(20) % 4


def model(classes=4):
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(108, classes))


def test_a_fitting_model_is_left_as_it_was():
    net = model()
    net[1].eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    random = torch.get_rng_state()
    check_fits(net, as_splits((X, Y)))
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_buffers_that_change_even_in_evaluation_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            assert not self.training
            self.calls += 1
            return x.flatten(1) + torch.rand(())

    net, random = Counting(), torch.get_rng_state()
    check_fits(net, as_splits((X, Y)))
    assert int(net.calls) == 0 and torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("x", "y", "classes", "said"),
    [
        (
            torch.rand(20, 3, 8, 8),
            Y,
            4,
            "cannot take a batch of shape [2, 3, 8, 8] (float32): RuntimeError: Given groups=1",
        ),
        (
            torch.rand(20, 1, 9, 9),
            Y,
            4,
            "cannot take a batch of shape [2, 1, 9, 9] (float32): RuntimeError: mat1 and mat2",
        ),
        (X, Y, 3, "the data has 4 classes, but the model has 3 outputs"),
        (X, torch.where(Y == 3, 99, Y), 4, "the data has 100 classes, but the model has 4 outputs"),
    ],
)
def test_what_does_not_fit(x, y, classes, said):
    with pytest.raises(DataError) as caught:
        check_fits(model(classes), as_splits((x, y)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_every_split_is_looked_at():
    parts = {"train": (X, Y), "validation": (X, Y), "test": (torch.rand(5, 1, 4, 4), Y[:5])}
    with pytest.raises(DataError, match=r"given: test: the model cannot take a batch of shape \[2, 1, 4, 4\]"):
        check_fits(model(), as_splits(parts))


def test_loaders_are_checked_by_their_first_batch():
    good, bad = [(X, Y)], [(X, Y - 1)]
    check_fits(model(), as_splits({"train": good, "validation": good}))
    with pytest.raises(DataError, match="validation has label -1"):
        check_fits(model(), as_splits({"train": good, "validation": bad}))
    with pytest.raises(DataError, match="the first batch holds NaN"):
        check_fits(model(), as_splits({"train": [(X / 0 * 0, Y)], "validation": good}))


def test_several_inputs_and_outputs_that_are_no_logits():
    class Two(nn.Module):
        def forward(self, a, b):
            return {"sum": a + b}

    check_fits(Two(), as_splits((X, X, Y)))
    with pytest.raises(DataError, match="missing 1 required positional argument"):
        check_fits(Two(), as_splits((X, Y)))


def test_regression_with_whole_numbers_is_no_classification():
    check_fits(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), as_splits((X, Y)))
