"""The compact architectures against their definitions written out and against other libraries' models."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet.core.recipe import ModelSpec
from tersenet.models import build, skeleton
from tersenet.models.ghostnet import Ghost, GhostBottleneck, SqueezeExcite
from tersenet.models.googlenet import Inception
from tersenet.models.mobilenet_v1 import Separable
from tersenet.models.mobilenet_v2 import InvertedResidual
from tersenet.models.shufflenet_v1 import ShuffleBlock, shuffle
from tersenet.models.squeezenet import Fire
from tersenet.models.xception import Block
from tersenet.models.xception import Separable as XceptionSeparable


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return skeleton(ModelSpec(name=name, kwargs=kwargs))


def lively(module):
    """In eval mode, with norms and biases that do something."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor += 0.3 * torch.rand(tensor.shape)
    return module.eval()


class Steps:
    """The convolutions of a module, each with its norm if it has one, in the order in which they are registered."""

    def __init__(self, module):
        self.layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]

    def __call__(self, x, stride=1, groups=1):
        conv = self.layers.pop(0)
        y = F.conv2d(x, conv.weight, conv.bias, stride, conv.weight.shape[-1] // 2, 1, groups)
        if self.layers and isinstance(self.layers[0], nn.BatchNorm2d):
            norm = self.layers.pop(0)
            y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return y

    def done(self):
        return not self.layers


@torch.no_grad()
def same(module, channels, written_out, side=7):
    """`written_out(x, steps)` is what the module computes, and uses up its layers."""
    x, steps = torch.randn(2, channels, side, side), Steps(lively(module))
    before = x.clone()
    torch.testing.assert_close(module(x), written_out(x, steps))
    assert steps.done() and torch.equal(x, before)


def test_a_separable_layer_of_mobilenet():
    same(Separable(6, 10, 2), 6, lambda x, layer: layer(layer(x, 2, 6).relu()).relu())


def test_a_separable_layer_of_xception_has_nothing_between():
    same(XceptionSeparable(6, 10), 6, lambda x, layer: layer(layer(x, 1, 6)))


@pytest.mark.parametrize(("width", "stride", "expansion"), [(6, 1, 4), (6, 2, 4), (8, 1, 4), (6, 1, 1)])
def test_an_inverted_residual(width, stride, expansion):
    def written_out(x, layer):
        y = layer(x).clamp(0, 6) if expansion > 1 else x
        y = layer(layer(y, stride, 6 * expansion).clamp(0, 6))
        return x + y if y.shape == x.shape else y

    same(InvertedResidual(6, width, stride, expansion), 6, written_out)


def test_a_fire_module():
    def written_out(x, layer):
        x = layer(x).relu()
        return torch.cat([layer(x).relu(), layer(x).relu()], 1)

    same(Fire(6, 3, 5), 6, written_out)


def shuffled(x, groups):
    """Channel by channel: those of a group are dealt out to all groups."""
    count = x.shape[1] // groups
    return torch.stack([x[:, (place % groups) * count + place // groups] for place in range(x.shape[1])], 1)


@pytest.mark.parametrize(("groups", "width"), [(1, 24), (2, 24), (3, 36), (4, 32)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_of_shufflenet(groups, width, stride):
    fan_in = width if stride == 1 else 12
    hidden = width // 4

    def written_out(x, layer):
        y = shuffled(layer(x, groups=groups).relu(), groups)
        y = layer(layer(y, stride, hidden), groups=groups)
        return (x + y if stride == 1 else torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1)).relu()

    same(ShuffleBlock(fan_in, width, groups, stride, first=False), fan_in, written_out)


def test_the_first_block_of_shufflenet_does_not_group_its_first_convolution():
    first, second = (ShuffleBlock(12, 36, 3, 2, first) for first in (True, False))
    assert (first.reduce[0].groups, second.reduce[0].groups, first.expand[0].groups) == (1, 3, 3)
    assert [tuple(block.reduce[0].weight.shape[:2]) for block in (first, second)] == [(9, 12), (9, 4)]


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_shuffling_gives_every_group_channels_of_every_group(groups):
    x = torch.arange(12.0).reshape(1, 12, 1, 1)
    assert torch.equal(shuffle(x, groups), shuffled(x, groups))
    assert torch.equal(shuffle(shuffle(x, groups), 12 // groups), x)


def test_a_ghost_module_with_and_without_activation():
    for activation, relu in ((nn.ReLU, torch.relu), (None, lambda x: x)):

        def written_out(x, layer, relu=relu):
            x = relu(layer(x))
            return torch.cat([x, relu(layer(x, 1, 5))], 1)

        same(Ghost(6, 10, activation), 6, written_out)


def test_squeeze_and_excitation():
    def written_out(x, layer):
        share = layer(layer(x.flatten(2).mean(2)[..., None, None]).relu())
        return x * ((share + 3).clamp(0, 6) / 6)

    same(SqueezeExcite(8), 8, written_out)


@pytest.mark.parametrize(("width", "stride", "kernel"), [(6, 1, 3), (10, 1, 3), (10, 2, 5)])
def test_a_ghost_bottleneck(width, stride, kernel):
    def written_out(x, layer):
        y = layer(x).relu()
        y = torch.cat([y, layer(y, 1, 6).relu()], 1)
        y = layer(y, 2, 12) if stride == 2 else y
        y = y * F.hardsigmoid(layer(layer(y.mean((2, 3), keepdim=True)).relu()))
        y = layer(y)
        y = torch.cat([y, layer(y, 1, width // 2)], 1)
        return y + (x if layer.done() else layer(layer(x, stride, 6)))

    same(GhostBottleneck(6, 12, width, kernel, stride, excite=True), 6, written_out)


@pytest.mark.parametrize(("strided", "activated"), [(False, False), (True, False), (True, True)])
def test_a_block_of_xception(strided, activated):
    def written_out(x, layer):
        shortcut = layer(x, 2) if strided else x
        y = x if activated else x.relu()
        y = layer(layer(y, 1, 6)).relu()
        y = layer(layer(y, 1, 6))
        return (F.max_pool2d(y, 3, 2, 1) if strided else y) + shortcut

    same(Block(6, (6, 6), strided, activated), 6, written_out)


def test_an_inception_module():
    def written_out(x, layer):
        one, three = layer(x).relu(), layer(layer(x).relu()).relu()
        five, pool = layer(layer(x).relu()).relu(), layer(F.max_pool2d(x, 3, 1, 1)).relu()
        return torch.cat([one, three, five, pool], 1)

    same(Inception(6, (3, 4, 5, 2, 7, 1)), 6, written_out)


def transplanted(ours, theirs):
    """`theirs` with the tensors of `ours`, which must come in the same order and shapes."""
    state = ours.state_dict().values()
    for (name, target), source in zip(theirs.state_dict().items(), state, strict=True):
        assert target.shape == source.shape, name
        target.copy_(source)
    return theirs.eval()


@pytest.mark.parametrize(
    ("name", "other", "image"),
    [
        ("mobilenet_v1", "mobilenetv1_100", 96),
        ("mobilenet_v2", "mobilenetv2_100", 96),
        ("ghostnet", "ghostnet_100", 96),
        ("xception", "legacy_xception", 128),
    ],
)
def test_timms_model_with_our_weights_computes_the_same(name, other, image):
    timm = pytest.importorskip("timm")
    ours = lively(build(ModelSpec(name=name), 0))
    theirs, x = transplanted(ours, timm.create_model(other, pretrained=False)), torch.randn(1, 3, image, image)
    if name == "mobilenet_v1":  # ReLU in the paper, cut at 6 in the published code, which timm follows
        for module in theirs.modules():
            for key, _ in [pair for pair in module.named_children() if isinstance(pair[1], nn.ReLU6)]:
                setattr(module, key, nn.ReLU())
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5 * float(ours(x).abs().max()))


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0", "squeezenet1_1"])
def test_torchvisions_model_with_our_weights_computes_the_same(name):
    torchvision = pytest.importorskip("torchvision")
    ours = lively(build(ModelSpec(name=name), 0))
    theirs, x = transplanted(ours, getattr(torchvision.models, name)()), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5 * float(ours(x).abs().max()))


@pytest.mark.parametrize(("name", "other"), [("mobilenet_v1", "MobileNetV1"), ("mobilenet_v2", "MobileNetV2")])
def test_the_parameters_are_those_of_transformers(name, other):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{other}Config")(num_labels=1000)
    with torch.device("meta"):
        theirs = getattr(transformers, f"{other}ForImageClassification")(config)
    shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (on_meta(name), theirs)]
    assert shapes[0] == shapes[1]
