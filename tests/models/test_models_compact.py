"""The compact architectures against their definitions written out and against other libraries' models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tersenet.core.errors import ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.graph import ChannelGraph
from tersenet.measure.macs import count_macs
from tersenet.models import build, skeleton
from tersenet.models.compact import multiple, normed
from tersenet.models.ghostnet import Ghost, GhostBottleneck, SqueezeExcite
from tersenet.models.googlenet import Inception
from tersenet.models.mobilenet_v1 import Separable
from tersenet.models.mobilenet_v2 import InvertedResidual
from tersenet.models.shufflenet_v1 import ShuffleBlock, shuffle
from tersenet.models.squeezenet import Fire
from tersenet.models.xception import Block
from tersenet.models.xception import Separable as XceptionSeparable

LEAST = {  # model → height of the smallest image, of which a single position is left
    **{"ghostnet": 16, "googlenet": 8, "mobilenet_v1": 16, "mobilenet_v2": 8, "shufflenet_v1": 8},
    **{"squeezenet1_0": 8, "squeezenet1_1": 8, "xception": 16},
}
NAMES = list(LEAST)


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


def sides(name, image, **kwargs):
    """Heights of what the convolutions give, in order, but for those after the mean over all positions."""
    model, found = on_meta(name, image=image, **kwargs), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, made: found.append(made.shape[-1]))
    model.eval()(torch.empty(1, 3, image, image, device="meta"))
    return [side for side in found if side > 1]


@pytest.mark.parametrize("name", NAMES)
def test_small_images_are_halved_less_often(name):
    small, large = sides(name, 32), sides(name, 224)
    assert small[0] == 32 and small[-1] == (2 if LEAST[name] == 16 else 4)
    assert large[0] in (109, 111, 112) and large[-1] in (7, 13)
    assert sides(name, 95)[0] == 95 and sides(name, 96)[0] < 49


@pytest.mark.parametrize(("resolution", "image"), [(0.5, 112), (0.75, 168), (6 / 7, 192)])
def test_the_resolution_multiplier_costs_what_smaller_images_cost(resolution, image):
    """Howard et al. 2017, §3.4."""
    scaled, smaller = on_meta("mobilenet_v1", resolution=resolution), on_meta("mobilenet_v1", image=image)
    found = [
        count_macs(model, torch.empty(1, 3, side, side, device="meta"))
        for model, side in ((scaled, 224), (smaller, image))
    ]
    assert found[0] == found[1]
    scaled = build(ModelSpec(name="mobilenet_v1", kwargs={"image": 32, "resolution": 0.5, "width": 0.25}), 0).eval()
    smaller = build(ModelSpec(name="mobilenet_v1", kwargs={"image": 16, "width": 0.25}), 0).eval()
    x = torch.randn(2, 3, 16, 16)
    flat = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert scaled(flat).shape == smaller(x).shape and not torch.equal(scaled(flat), scaled(flat.flip(3)))
    constant = torch.full((1, 3, 32, 32), 0.7)
    torch.testing.assert_close(scaled(constant), smaller(constant[:, :, :16, :16]))


@given(st.floats(0.01, 3000), st.integers(1, 16))
def test_rounded_widths_are_near_and_never_much_less(channels, of):
    found = multiple(channels, of)
    assert found % of == 0 and found >= max(of, 0.9 * channels) and found - channels <= of


def test_widths_round_as_in_the_published_networks():
    assert [multiple(0.35 * width, 8) for width in (32, 16, 24, 64, 96, 160, 320)] == [16, 8, 8, 24, 32, 56, 112]
    assert [multiple(0.75 * width, 8) for width in (32, 16, 24, 64, 96, 160, 320)] == [24, 16, 24, 48, 72, 120, 240]


@pytest.mark.parametrize(("activation", "gain"), [(nn.ReLU, 2), (nn.ReLU6, 2), (None, 1)])
@pytest.mark.parametrize("groups", [1, 2, 64])
def test_weights_start_so_that_sizes_stay_also_in_groups(activation, gain, groups):
    weight = normed(64, 1024, 5, groups=groups, activation=activation)[0].weight.detach()
    assert abs(float(weight.var()) * 25 * 64 / groups / gain - 1) < 0.05 and abs(float(weight.mean())) < 0.01


@pytest.mark.parametrize(("groups", "some"), [(1, True), (2, True), (3, False), (8, True)])
def test_channels_of_shufflenet_go_where_the_groups_divide_the_groups(groups, some):
    """With 3 groups of 20 channels a group reads 7 or 6 channels of each other, so that no number can go from all."""
    model = build(ModelSpec(name="shufflenet_v1", kwargs={"image": 32, "groups": groups}), 0).eval()
    found = ChannelGraph(model, torch.randn(1, 3, 32, 32))
    assert any(group.prunable for group in found) is some and not found.unknown
    assert some or all(group.reason for group in found)
    assert any("cuts across its units" in (group.reason or "") for group in found) is (groups > 1)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        *((name, {"image": 7}, f"images must be at least {least} pixels high, not 7") for name, least in LEAST.items()),
        *((name, {"width": 0.0}, "width must be above 0, not 0.0") for name in (
            "mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "xception", "ghostnet",
        )),
        ("mobilenet_v1", {"width": -1}, "width must be above 0, not -1"),
        ("mobilenet_v1", {"width": True}, "width must be a number"),
        ("mobilenet_v1", {"resolution": 0}, "resolution must be above 0 and at most 1, not 0"),
        ("mobilenet_v1", {"resolution": 1.5}, "resolution must be above 0 and at most 1, not 1.5"),
        ("mobilenet_v1", {"image": 32, "resolution": 0.25}, "images must be at least 16 pixels high, not 8"),
        ("mobilenet_v1", {"shallow": 1}, "shallow must be true or false"),
        ("shufflenet_v1", {"groups": 5}, "groups must be one of 1, 2, 3, 4, 8, not 5"),
        ("squeezenet1_1", {"width": 0.5}, "unknown argument 'width'"),
    ],
)  # fmt: skip
def test_arguments_that_are_wrong(name, kwargs, said):
    with pytest.raises(ModelError) as caught:
        build(ModelSpec(name=name, kwargs=kwargs), 0)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_image_is_one_it_can_take(name):
    model = build(ModelSpec(name=name, kwargs={"image": LEAST[name]}), 0).eval()
    assert model(torch.randn(1, 3, LEAST[name], LEAST[name])).shape == (1, 1000)
