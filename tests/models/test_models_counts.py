"""Parameters and multiply-accumulates of the zoo against published tables and sums written out by hand."""

import pytest
import torch

from tersenet.core.recipe import ModelSpec
from tersenet.measure.macs import count_macs
from tersenet.models import input_shape, skeleton


def made(name, **kwargs):
    with torch.device("meta"):
        return skeleton(ModelSpec(name=name, kwargs=kwargs))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, name):
    counted = count_macs(model, torch.empty(1, *input_shape(name), device="meta"))
    assert counted.unknown == {}
    return counted


@pytest.mark.parametrize(
    ("name", "kwargs", "expected_parameters", "expected_macs"),
    [
        ("resnet18", {}, 11_689_512, 1_814_073_344),
        ("resnet34", {}, 21_797_672, 3_663_761_408),
        ("resnet50", {}, 25_557_032, 4_089_184_256),
        ("resnet101", {}, 44_549_160, 7_801_405_440),
        ("resnet152", {}, 60_192_808, 11_513_626_624),
        ("alexnet", {}, 61_100_840, 714_188_480),
        ("alexnet", {"grouped": True}, 60_965_224, 724_406_816),
        ("vgg16", {}, 138_357_544, 15_470_264_320),
        ("vgg16", {"batch_norm": True}, 138_365_992, 15_470_264_320),
        ("vgg16_cifar", {}, 14_991_946, 313_463_808),
        ("densenet40", {}, 1_019_722, 264_812_928),
        ("densenet40", {"initial": 24}, 1_059_298, 282_917_328),
        ("densenet121", {}, 7_978_856, 2_834_161_664),
        ("vit_tiny", {}, 5_717_416, 1_253_683_200),
    ],
    ids=str,
)
def test_exact_counts(name, kwargs, expected_parameters, expected_macs):
    model = made(name, **kwargs)
    assert (parameters(model), macs(model, name).total) == (expected_parameters, expected_macs)


@pytest.mark.parametrize(
    ("name", "kwargs", "published"),  # He et al. 2015, table 1: FLOPs of the nets whose 1×1 convolutions are strided
    [
        ("resnet18", {}, 1.8e9),
        ("resnet34", {}, 3.6e9),
        ("resnet50", {"strided": "1x1"}, 3.8e9),
        ("resnet101", {"strided": "1x1"}, 7.6e9),
        ("resnet152", {"strided": "1x1"}, 11.3e9),
    ],
)
def test_imagenet_resnets_cost_what_their_paper_says(name, kwargs, published):
    counted = macs(made(name, **kwargs), name).total
    assert published - 0.05e9 <= counted < published + 0.1e9  # the paper rounds some and cuts others
    assert parameters(made(name, **kwargs)) == parameters(made(name))


@pytest.mark.parametrize(
    ("name", "published"),  # He et al. 2015, table 6
    [("resnet20", 0.27e6), ("resnet32", 0.46e6), ("resnet44", 0.66e6), ("resnet56", 0.85e6), ("resnet110", 1.7e6)],
)
def test_cifar_resnets_have_the_published_parameters_and_closed_form_macs(name, published):
    n = (int(name.removeprefix("resnet")) - 2) // 6
    model = made(name)
    assert abs(parameters(model) - published) < (0.005e6 if published < 1e6 else 0.05e6)
    blocks = (2 * n + 2 * n - 1 + 2 * n - 1) * 16 * 16 * 9 * 32 * 32  # within a stage: all the same
    entering = 2 * (16 * 16 * 9 * 32 * 32 // 2)  # half the channels in: half of that
    assert macs(model, name).total == 3 * 16 * 9 * 32 * 32 + blocks + entering + 64 * 10


@pytest.mark.parametrize(
    ("name", "flop", "count"),  # Li et al. 2017, table 1; the counts of parameters there are cut, not rounded
    [("resnet56", 1.25e8, 0.85e6), ("resnet110", 2.53e8, 1.72e6)],
)
def test_the_padding_shortcut_is_that_of_pruning_filters(name, flop, count):
    model, projected = made(name), made(name, shortcut="B")
    assert abs(macs(model, name).total - flop) < 0.005e8
    assert parameters(model) // 10_000 * 10_000 == count
    assert parameters(projected) - parameters(model) == 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert macs(projected, name).total - macs(model, name).total == 16 * 32 * 16 * 16 + 32 * 64 * 8 * 8
    if name == "resnet110":
        assert parameters(projected) // 10_000 * 10_000 != count


def layers(model, name):
    """(weight entries, MACs) of each layer with products, in the order in which they run."""
    counted, modules = macs(model, name).layers, dict(model.named_modules())
    return [(modules[layer].weight.numel(), counted[layer]) for layer in counted]


def test_vgg16_for_cifar_layer_by_layer_as_in_pruning_filters():
    flop = [1.8e6, 3.8e7, 1.9e7, 3.8e7, 1.9e7, 3.8e7, 3.8e7, 1.9e7, 3.8e7, 3.8e7, 9.4e6, 9.4e6, 9.4e6, 2.6e5, 5.1e3]
    count = [1.7e3, 3.7e4, 7.4e4, 1.5e5, 2.9e5, 5.9e5, 5.9e5, 1.2e6, *[2.4e6] * 5, 2.6e5, 5.1e3]  # table 2
    found = layers(made("vgg16_cifar"), "vgg16_cifar")
    assert [(float(f"{p:.1e}"), float(f"{m:.1e}")) for p, m in found] == list(zip(count, flop, strict=True))


def test_grouped_alexnet_layer_by_layer_as_in_deep_compression():
    found = [weights for weights, _ in layers(made("alexnet", grouped=True), "alexnet")]
    # table 4: 35K 307K 885K 663K 442K 38M 17M 4M, of which conv1 (34,848) is rounded and conv4 (663,552) is cut
    assert [round(weights / 1e3) for weights in found[:5]] == [35, 307, 885, 664, 442]
    assert [round(weights / 1e6) for weights in found[5:]] == [38, 17, 4]
    assert sum(found[5:6]) == 9216 * 4096


def test_vgg16_for_imagenet_layer_by_layer_as_in_deep_compression():
    found = [round(weights / 1e3) for weights, _ in layers(made("vgg16"), "vgg16")]
    # table 5: 2K 37K 74K 148K 295K 590K 590K 1M 2M 2M 2M 2M 2M 103M 17M 4M; conv2_2 is 128 · 128 · 9 = 147,456
    assert found == [2, 37, 74, 147, 295, 590, 590, 1180, *[2359] * 5, 102_760, 16_777, 4096]


@pytest.mark.parametrize(("name", "image", "patch", "depth"), [("vit_tiny", 224, 16, 12), ("vit_cifar", 32, 4, 9)])
def test_vit_counts_in_closed_form(name, image, patch, depth):
    d, p, kwargs = 192, (image // patch) ** 2, {"depth": depth}
    n, classes = p + 1, 1000 if name == "vit_tiny" else 10
    attention = 2 * n * n * d  # Q Kᵀ, and the weights times V, over all heads
    block = n * (3 * d * d + d * d + 8 * d * d) + attention
    embedding = 3 * patch * patch * d
    model = made(name, **kwargs)
    assert macs(model, name).total == p * embedding + depth * block + classes * d
    block_parameters = 12 * d * d + (3 + 1 + 4 + 1) * d + 4 * d
    ends = embedding + d + d + n * d + 2 * d + (d + 1) * classes
    assert parameters(model) == depth * block_parameters + ends


def test_deit_tiny_is_as_published():
    """Touvron et al. 2021, table 1: 5 M parameters. The usual 1.26 GMACs are with 5 for each entry of a layer norm."""
    model = made("vit_tiny")
    assert round(parameters(model) / 1e6, 2) == 5.72
    norms = 25 * 197 * 192 * 5
    assert round((macs(model, "vit_tiny").total + norms) / 1e9, 2) == 1.26
