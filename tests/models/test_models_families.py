"""AlexNet, VGG, DenseNet and ViT against their definitions written out or another library's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet.core.recipe import ModelSpec
from tersenet.models import build
from tersenet.models.alexnet import AlexNet


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(name, **kwargs):
    return build(ModelSpec(name=name, kwargs=kwargs), 0).eval()


def weights(model):
    """(weight, bias) of each layer with products, in order."""
    kinds = (nn.Conv2d, nn.Linear)
    return [(module.weight.detach(), module.bias.detach()) for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(("grouped", "image"), [(False, 224), (True, 227)])
def test_alexnet_written_out(grouped, image):
    model = made("alexnet", grouped=grouped, hidden=16)
    groups, x = 2 if grouped else 1, torch.randn(1, 3, image, image)
    (w1, b1), (w2, b2), (w3, b3), (w4, b4), (w5, b5), *linear = weights(model)
    assert w1.shape[0] == (96 if grouped else 64) and linear[0][0].shape == (16, 9216)
    y = F.max_pool2d(F.conv2d(x, w1, b1, 4, 2).relu(), 3, 2)
    y = F.max_pool2d(F.conv2d(y, w2, b2, 1, 2, 1, groups).relu(), 3, 2)
    y = F.conv2d(y, w3, b3, 1, 1).relu()
    y = F.conv2d(y, w4, b4, 1, 1, 1, groups).relu()
    y = F.max_pool2d(F.conv2d(y, w5, b5, 1, 1, 1, groups).relu(), 3, 2).flatten(1)
    for w, b in linear[:2]:
        y = F.linear(y, w, b).relu()
    torch.testing.assert_close(model(x), F.linear(y, *linear[2]))


@pytest.mark.parametrize("image", range(63, 160, 7))
def test_alexnets_image_gives_its_first_linear_layer(image):
    assert AlexNet(image=image, hidden=1, classes=3).eval()(torch.zeros(1, 3, image, image)).shape == (1, 3)


def test_alexnet_starts_as_in_its_paper():
    layers = weights(made("alexnet", hidden=64))
    assert [float(bias.unique()) for _, bias in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    assert all(abs(float(weight.std()) / 0.01 - 1) < 0.05 for weight, _ in layers)


def test_vgg16_for_imagenet_written_out():
    model = made("vgg16", image=64, hidden=16)
    y = x = torch.randn(1, 3, 64, 64)
    layers = weights(model)
    for number, (weight, bias) in enumerate(layers[:13], start=1):
        y = F.conv2d(y, weight, bias, padding=1).relu()
        y = F.max_pool2d(y, 2) if number in (2, 4, 7, 10, 13) else y
    y = y.flatten(1)
    for number, (weight, bias) in enumerate(layers[13:]):
        y = F.linear(y, weight, bias)
        y = y.relu() if number < 2 else y
    torch.testing.assert_close(model(x), y)


def test_vgg16_of_pruning_filters_has_a_batch_norm_after_each_layer_but_the_last():
    model = made("vgg16_cifar")
    kinds = [
        type(m).__name__ for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.ReLU))
    ]
    kinds += [type(m).__name__ for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kinds == ["Conv2d", "ReLU"] * 13 + ["Linear", "BatchNorm1d", "ReLU", "Linear"] + ["BatchNorm2d"] * 13


def test_where_the_classifiers_of_vgg_drop():
    kinds = {"vgg16_cifar": "DLRDL", "vgg16": "LRDLRDL", "vgg16_bn": "DL"}
    for name, expected in kinds.items():
        model = made(name, dropout=0.5, **({"image": 32, "hidden": 8} if name == "vgg16" else {}))
        layers = [m for n, m in model.named_modules() if not n.startswith("features") and not list(m.children())]
        drops = [m.p if isinstance(m, nn.Dropout) else type(m).__name__[0] for m in layers]
        assert "".join("D" if d == 0.5 else str(d) for d in drops if d not in (0.0, "B")) == expected


@pytest.mark.parametrize(
    ("name", "layer", "axis"),
    [("resnet50", "layer4.2.conv3", 0), ("vgg16_bn", "features.7", 0), ("densenet121", "", 1)],
)
def test_convolutions_start_as_he_et_al_do(name, layer, axis):
    weight = made(name).get_submodule(layer or "features.denseblock4.denselayer16.conv2").weight.detach()
    inputs_or_outputs = weight.shape[axis] * weight[0, 0].numel()
    assert abs(float(weight.var()) * inputs_or_outputs / 2 - 1) < 0.05 and abs(float(weight.mean())) < 0.01


def test_densenet40_written_out():
    model = made("densenet40", growth=3, initial=4)
    f, x = model.features, torch.randn(2, 3, 16, 16)
    y = F.conv2d(x, f.conv0.weight, padding=1)
    for block, transition in ((f.denseblock1, f.transition1), (f.denseblock2, f.transition2), (f.denseblock3, None)):
        given = [y]
        for layer in block:
            seen = torch.cat(given, 1)
            given.append(F.conv2d(layer.norm1(seen).relu(), layer.conv1.weight, padding=1))
        y = torch.cat(given, 1)
        if transition is not None:
            y = F.avg_pool2d(F.conv2d(transition.norm(y).relu(), transition.conv.weight), 2)
    y = f.norm4(y).relu().flatten(2).mean(2)
    torch.testing.assert_close(model(x), F.linear(y, model.classifier.weight, model.classifier.bias))
    assert y.shape[1] == 4 + 36 * 3


def test_densenet121_written_out():
    """By the names of published checkpoints, which therefore can be loaded."""
    model = made("densenet121", growth=4, initial=8)
    w, x = model.state_dict(), torch.randn(2, 3, 64, 64)

    def normed(y, name):
        mean, var, weight, bias = (w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, mean, var, weight, bias).relu()

    for key, tensor in w.items():
        if "norm" in key and tensor.is_floating_point():
            tensor += 0.3 * torch.rand(tensor.shape)
    y = normed(F.conv2d(x, w["features.conv0.weight"], stride=2, padding=3), "features.norm0")
    y = F.max_pool2d(y, 3, 2, 1)
    for block, count in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, count + 1):
            at = f"features.denseblock{block}.denselayer{layer}"
            z = F.conv2d(normed(y, f"{at}.norm1"), w[f"{at}.conv1.weight"])
            z = F.conv2d(normed(z, f"{at}.norm2"), w[f"{at}.conv2.weight"], padding=1)
            assert w[f"{at}.conv1.weight"].shape[0] == 16 and z.shape[1] == 4
            y = torch.cat([y, z], 1)
        if block < 4:
            at = f"features.transition{block}"
            width = y.shape[1]
            y = F.avg_pool2d(F.conv2d(normed(y, f"{at}.norm"), w[f"{at}.conv.weight"]), 2)
            assert y.shape[1] == width // 2
    y = normed(y, "features.norm5").flatten(2).mean(2)
    torch.testing.assert_close(
        model(x), F.linear(y, w["classifier.weight"], w["classifier.bias"]), rtol=1e-4, atol=1e-5
    )


def test_vit_is_torchs_encoder_between_patches_and_class_token():
    """The blocks by the names of published checkpoints, in torch's pre-norm layers."""
    model = made("vit_cifar", dim=24, depth=2, image=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    w, x = model.state_dict(), torch.randn(2, 3, 8, 8)
    patches = F.unfold(x, 4, stride=4).transpose(1, 2) @ w["patch_embed.proj.weight"].flatten(1).T
    patches = patches + w["patch_embed.proj.bias"]
    y = torch.cat([w["cls_token"].expand(2, 1, 24), patches], 1) + w["pos_embed"]
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    for index in range(2):
        layer = nn.TransformerEncoderLayer(24, 3, 96, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True)
        layer.load_state_dict(
            {a + kind: w[f"blocks.{index}.{b}{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
        )
        y = layer(y)
    y = F.layer_norm(y[:, 0], (24,), w["norm.weight"], w["norm.bias"], 1e-6)
    torch.testing.assert_close(model(x), F.linear(y, w["head.weight"], w["head.bias"]), rtol=1e-4, atol=1e-4)


def attention_and_torchs():
    attention = made("vit_cifar", dim=24, heads=3).blocks[0].attn
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    other = nn.MultiheadAttention(24, 3, batch_first=True)
    other.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    return attention, other


def test_attention_is_torchs():
    attention, other = attention_and_torchs()
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(attention(x), other(x, x, x, need_weights=False)[0])


def test_heads_go_by_shrinking_weights_alone():
    """Without the columns of `proj` that read head 1, or without the head: the same."""
    attention, _ = attention_and_torchs()
    masked, smaller = copy.deepcopy(attention), copy.deepcopy(attention)
    masked.proj.weight.data[:, 8:16] = 0
    kept = torch.tensor([*range(8), *range(16, 24)])
    rows = torch.cat([kept, 24 + kept, 48 + kept])
    smaller.qkv.weight.data, smaller.qkv.bias.data = attention.qkv.weight[rows], attention.qkv.bias[rows]
    smaller.proj.weight.data = attention.proj.weight[:, kept]
    x = torch.randn(2, 7, 24)
    assert not torch.allclose(masked(x), attention(x), atol=1e-2)
    torch.testing.assert_close(smaller(x), masked(x))


def test_a_vit_tells_where_its_patches_are_and_starts_as_deit_does():
    model = made("vit_cifar", depth=1)
    x = torch.randn(1, 3, 32, 32)
    assert model.pos_embed.shape == (1, 65, 192) and model.patch_embed(x).shape == (1, 64, 192)
    assert not torch.allclose(model(x), model(x.roll(4, -1)), atol=1e-4)
    model.pos_embed.data.zero_()
    torch.testing.assert_close(model(x), model(x.roll(4, -1)))  # without positions, a set of patches
    for tensor in (model.cls_token, model.blocks[0].attn.qkv.weight, model.blocks[0].mlp.fc1.weight):
        assert abs(float(tensor.detach().std()) / 0.02 - 1) < 0.15
