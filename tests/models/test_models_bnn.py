"""Binary activations and the nets with batch norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet.core.recipe import ModelSpec
from tersenet.models import Sign, build, skeleton


def test_sign_is_one_or_minus_one_and_its_gradient_that_of_the_hard_tanh():
    x = torch.tensor([-2.0, -1.0, -0.3, -0.0, 0.0, 0.7, 1.0, 1.01]).requires_grad_()
    y, outer = Sign()(x), torch.arange(1.0, 9.0)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    y.backward(outer)
    z = x.detach().clone().requires_grad_()
    F.hardtanh(z * 0.999999).backward(outer)  # at ±1 itself torch's has none, and the paper's has one
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-5, atol=0)
    assert x.grad[1] == 2 and Sign()(torch.zeros(2, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize(("name", "activation"), [("bnn", torch.sign), ("mlp_bn", torch.relu)])
def test_written_out(name, activation):
    model = build(ModelSpec(name=name, kwargs={"inputs": 12, "hidden": [7, 5], "classes": 3}), 1)
    names = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("fc", "norm", "act")][:-1]
    assert [child for child, _ in model.named_children()][1:] == names
    assert model.fc1.bias is None
    x = torch.randn(6, 3, 2, 2)
    y = x.flatten(1)
    for i in (1, 2, 3):
        y = y @ getattr(model, f"fc{i}").weight.T
        y = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()
        y = activation(y) if i < 3 else y
    torch.testing.assert_close(model.train()(x), y, rtol=1e-3, atol=1e-4)


def test_sizes_are_those_of_the_papers():
    weights = {
        "mlp_bn": 784 * 1024 + 2 * 1024**2 + 1024 * 10,
        "bnn": 784 * 4096 + 2 * 4096**2 + 4096 * 10,
    }
    for name, count in weights.items():
        with torch.device("meta"):
            model = skeleton(ModelSpec(name=name))
        assert sum(p.numel() for p in model.parameters() if p.ndim == 2) == count


def test_dropout_follows_each_activation():
    model = build(ModelSpec(name="bnn", kwargs={"inputs": 4, "hidden": [3, 3], "dropout": 0.5}), 0)
    kinds = [type(child) for child in model.children()]
    assert kinds.count(nn.Dropout) == 2 and kinds[kinds.index(Sign) + 1] is nn.Dropout


def test_a_model_of_ones_own_with_signs_is_read_back_without_its_source(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), Sign(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 6)
    tersenet.save(model, tmp_path / "m.terse", example=x, small_tensors="float32")
    assert torch.equal(tersenet.load(tmp_path / "m.terse")(x), model(x))
