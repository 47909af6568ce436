"""What every model of the zoo must do. A new one is tested by being registered."""

import copy

import pytest
import torch

from tersenet.core.recipe import ModelSpec
from tersenet.models import MODELS, build, input_shape

SEED = 3


@pytest.fixture(scope="module", params=list(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(ModelSpec(name=name), SEED).eval()


def example(name, count=2):
    return torch.randn(count, *input_shape(name), generator=torch.Generator().manual_seed(0))


def test_gives_one_row_of_logits_for_each_example(name, model):
    output = model(example(name))
    assert output.shape == (2, 10) and output.isfinite().all()
    torch.testing.assert_close(model(example(name)[:1]), output[:1], rtol=1e-4, atol=1e-5)


def test_takes_the_number_of_classes(name):
    assert build(ModelSpec(name=name, kwargs={"classes": 7}), SEED).eval()(example(name)).shape == (2, 7)


def test_the_same_seed_gives_the_same_weights(name, model):
    again, other = (build(ModelSpec(name=name), seed) for seed in (SEED, SEED + 1))
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_copy_is_independent(name, model):
    twin = copy.deepcopy(model)
    assert torch.equal(twin(example(name)), model(example(name)))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


def test_the_state_dict_is_the_whole_model(name, model):
    other = build(ModelSpec(name=name), SEED + 1).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(example(name)), model(example(name)))


def test_a_gradient_reaches_every_parameter(name):
    trained = build(ModelSpec(name=name), SEED).train()
    trained(example(name, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in trained.parameters())
