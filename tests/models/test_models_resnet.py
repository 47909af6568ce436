"""Residual networks against their definitions written out, and that channels can be taken out of them."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tersenet.core.errors import ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.models import build


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(name, **kwargs):
    """With batch norms that do something in eval mode."""
    model = build(ModelSpec(name=name, kwargs=kwargs), 0).eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data += 0.3 * torch.randn(tensor.shape, generator=generator)
            module.running_var.data *= 0.5 + torch.rand(module.running_var.shape, generator=generator)
    return model


def padded(x, width):
    """Option A pixel by pixel."""
    y = torch.zeros(x.shape[0], width, (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    for channel in range(x.shape[1]):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                y[:, channel, row, column] = x[:, channel, 2 * row, 2 * column]
    return y


def test_shortcut_a_is_every_second_pixel_and_zeros_for_the_new_channels():
    block = made("resnet20", width=4).layer2[0]
    for size in (6, 7):
        x = torch.randn(2, 4, size, size)
        torch.testing.assert_close(block(x), F.relu(block.residual(x) + padded(x, 8)))


def norm(x, state, name):
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_cifar_resnet_written_out(shortcut):
    model = made("resnet32", width=4, shortcut=shortcut)
    w, x = model.state_dict(), torch.randn(2, 3, 16, 16)
    y = norm(F.conv2d(x, w["conv1.weight"], padding=1), w, "bn1").relu()
    for stage in (1, 2, 3):
        for index in range(5):
            at, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            z = norm(F.conv2d(y, w[f"{at}.conv1.weight"], stride=stride, padding=1), w, f"{at}.bn1").relu()
            z = norm(F.conv2d(z, w[f"{at}.conv2.weight"], padding=1), w, f"{at}.bn2")
            if stride == 2 and shortcut == "A":
                y = padded(y, z.shape[1])
            elif stride == 2:
                y = norm(F.conv2d(y, w[f"{at}.downsample.0.weight"], stride=2), w, f"{at}.downsample.1")
            y = (y + z).relu()
    torch.testing.assert_close(model(x), F.linear(y.flatten(2).mean(2), w["fc.weight"], w["fc.bias"]))


def without(module, channel, axis):
    """Fewer filters or a narrower batch norm (axis 0), or fewer channels into each filter (axis 1)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim > axis:
            rest = [index for index in range(tensor.shape[axis]) if index != channel]
            tensor.data = tensor.data.index_select(axis, torch.tensor(rest))


def test_a_channel_goes_by_shrinking_weights_alone_also_through_shortcut_a():
    """Channel 3 of the first stage is channel 3 of all stages, as the shortcuts hand it on; silenced, then removed."""
    model = made("resnet20", width=8)
    masked, x = copy.deepcopy(model), torch.randn(2, 3, 16, 16)
    for name, module in masked.named_modules():
        if name == "bn1" or name.endswith(".bn2"):
            module.weight.data[3] = module.bias.data[3] = 0
    smaller = copy.deepcopy(masked)
    for name, module in smaller.named_modules():
        if name in ("conv1", "bn1") or name.endswith((".conv2", ".bn2")):
            without(module, 3, axis=0)
        if name == "fc" or name.endswith(".conv1"):
            without(module, 3, axis=1)
    assert smaller.layer2[0].conv1.weight.shape[1] == 7 and smaller.fc.weight.shape[1] == 31
    assert not torch.allclose(masked(x), model(x), atol=1e-3)
    torch.testing.assert_close(smaller(x), masked(x))


def test_which_convolution_of_a_bottleneck_is_strided():
    for strided, where in (("3x3", "conv2"), ("1x1", "conv1")):
        model = made("resnet50", width=4, strided=strided)
        found = {name for name, module in model.named_modules() if getattr(module, "stride", None) == (2, 2)}
        expected = {f"layer{stage}.0.{name}" for stage in (2, 3, 4) for name in (where, "downsample.0")}
        assert found == {"conv1"} | expected


@pytest.mark.parametrize(
    ("name", "strided", "depths"),
    [("resnet18", None, (2, 2, 2, 2)), ("resnet50", "3x3", (3, 4, 6, 3)), ("resnet50", "1x1", (3, 4, 6, 3))],
)
def test_an_imagenet_resnet_written_out(name, strided, depths):
    """By the names of published checkpoints, which therefore can be loaded."""
    model = made(name, width=4, **({"strided": strided} if strided else {}))
    w, x = model.state_dict(), torch.randn(2, 3, 64, 64)
    y = norm(F.conv2d(x, w.pop("conv1.weight"), stride=2, padding=3), w, "bn1").relu()
    y = F.max_pool2d(y, 3, 2, 1)
    where = {None: "conv1", "1x1": "conv1", "3x3": "conv2"}[strided]
    for stage, index in [(stage, index) for stage, depth in enumerate(depths, start=1) for index in range(depth)]:
        at, stride, z = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1, y
        convolutions = ["conv1", "conv2", "conv3"] if strided else ["conv1", "conv2"]
        for conv in convolutions:
            weight = w.pop(f"{at}.{conv}.weight")
            z = F.conv2d(z, weight, None, stride if conv == where else 1, weight.shape[-1] // 2)
            z = norm(z, w, f"{at}.{conv.replace('conv', 'bn')}")
            z = z if conv == convolutions[-1] else z.relu()
        if f"{at}.downsample.0.weight" in w:
            y = norm(F.conv2d(y, w.pop(f"{at}.downsample.0.weight"), stride=stride), w, f"{at}.downsample.1")
        y = (y + z).relu()
    expected = F.linear(y.flatten(2).mean(2), w.pop("fc.weight"), w.pop("fc.bias"))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not [key for key in w if ".bn" not in key and ".downsample.1" not in key and not key.startswith("bn1")]


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("resnet20", {"shortcut": "C"}, "shortcut must be 'A' or 'B', not 'C'"),
        ("resnet20", {"width": 0}, "width must be a whole number of at least 1"),
        ("resnet20", {"classes": True}, "classes must be a whole number of at least 1"),
        ("resnet20", {"width": 8.0}, "width must be a whole number of at least 1"),
        ("resnet20", {"shortcuts": "A"}, "unknown argument 'shortcuts'; did you mean 'shortcut'?"),
        ("resnet50", {"strided": "2x2"}, "strided must be '1x1' or '3x3', not '2x2'"),
        ("alexnet", {"image": 62}, "image must be at least 63, not 62"),
        ("alexnet", {"grouped": 1}, "grouped must be true or false"),
        ("vgg16", {"image": 31}, "image must be at least 32, not 31"),
        ("vgg16", {"dropout": "half"}, "dropout must be a number"),
        ("vgg16", {"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ("vit_cifar", {"heads": 5}, "heads must divide dim, but 5 does not divide 192"),
        ("vit_cifar", {"image": 30}, "patch must divide image, but 4 does not divide 30"),
    ],
)
def test_arguments_that_are_wrong(name, kwargs, said):
    with pytest.raises(ModelError) as caught:
        build(ModelSpec(name=name, kwargs=kwargs), 0)
    assert said in str(caught.value) and "\n" not in str(caught.value)
