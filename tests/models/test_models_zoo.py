"""Published parameter counts, and the definitions written out a second time."""

import pytest
import torch
import torch.nn.functional as F

from tersenet.core.recipe import ModelSpec
from tersenet.models import build

PUBLISHED = {
    "lenet_300_100": 266_610,  # Han et al. 2015, table 1: 267K
    "lenet5": 431_080,  # Han et al. 2015, table 1: 431K
    "mlp_3x512": 784 * 512 + 2 * 512 * 512 + 512 * 10 + 3 * 512 + 10,
    "mlp_2x1200": 784 * 1200 + 1200 * 1200 + 1200 * 10 + 2 * 1200 + 10,
    "mlp_1x100": 79_510,
    "vgg11_bn": 9_231_114,
    "vgg16_bn": 14_728_266,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_are_those_published(name, parameters):
    model = build(ModelSpec(name=name), 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_lenet5_is_caffes():
    model = build(ModelSpec(name="lenet5"), 1).eval()
    w = model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in w.items()} == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (500, 800),
        "fc1.bias": (500,),
        "fc2.weight": (10, 500),
        "fc2.bias": (10,),
    }
    x = torch.randn(3, 1, 28, 28)
    y = F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"]), 2, 2)
    y = F.max_pool2d(F.conv2d(y, w["conv2.weight"], w["conv2.bias"]), 2, 2)
    y = (y.reshape(3, -1) @ w["fc1.weight"].T + w["fc1.bias"]).clamp_min(0) @ w["fc2.weight"].T + w["fc2.bias"]
    torch.testing.assert_close(model(x), y)


def test_an_mlp_is_linear_layers_with_relu_between():
    model = build(ModelSpec(name="mlp", kwargs={"inputs": 12, "hidden": [7, 5], "classes": 3}), 1)
    w = model.state_dict()
    assert list(w) == [f"fc{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    x = torch.randn(4, 3, 2, 2)
    y = x.reshape(4, 12)
    for i in (1, 2, 3):
        y = y @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"]
        y = y.clamp_min(0) if i < 3 else y
    torch.testing.assert_close(model(x), y)


def test_vgg16_has_thirteen_convolutions_in_five_blocks():
    model = build(ModelSpec(name="vgg16_bn", kwargs={"classes": 100}), 0)
    kinds = [type(layer).__name__ for layer in model.features]
    assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d"), kinds.count("ReLU"), kinds.count("MaxPool2d")) == (
        13,
        13,
        13,
        5,
    )
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 100)
