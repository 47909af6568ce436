"""MACs against closed forms, against published totals, and against torch's own FLOP counter."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from tersenet.core.recipe import ModelSpec
from tersenet.measure.macs import count_macs


def sequential_vgg16():
    """VGG-16 for 224×224 images (Simonyan and Zisserman 2015, configuration D), on the meta device: no weights."""
    layers: list[nn.Module] = []
    channels = 3
    for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Written(nn.Module):
    """Products written in the forward in every way that torch offers."""

    def forward(self, a, b):  # [B, n, k], [B, k, m]
        return a @ b + torch.einsum("bnk,bkm->bnm", a, b) + torch.bmm(a, b) + torch.baddbmm(a @ b, a, b)


CASES = {
    "linear": (nn.Linear(7, 5), [(1, 7)], 35),
    "linear without bias on a sequence": (nn.Linear(7, 5, bias=False), [(2, 3, 7)], 2 * 3 * 35),
    "convolution": (nn.Conv2d(3, 8, 5, stride=2, padding=1), [(1, 3, 20, 20)], 9 * 9 * 8 * 3 * 25),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), [(1, 6, 9, 9)], 7 * 7 * 8 * 3 * 9),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), [(2, 6, 9, 9)], 2 * 9 * 9 * 6 * 9),
    "dilated": (nn.Conv1d(4, 6, 3, dilation=2), [(1, 4, 10)], 6 * 6 * 4 * 3),
    "three dimensions": (nn.Conv3d(2, 3, 2), [(1, 2, 4, 4, 4)], 27 * 3 * 2 * 8),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), [(1, 4, 5, 5)], 25 * 4 * 6 * 9),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), [(1, 4, 5, 5)], 25 * 4 * 3 * 9),
    "attention": (Attention(), [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)], 2 * 5 * 7 * (8 + 8)),
    "multi-head attention": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        [(1, 5, 8)] * 3,
        5 * 8 * 24 + 2 * 2 * 5 * 5 * 4 + 5 * 8 * 8,
    ),
    "transformer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        [(1, 5, 8)],
        5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8 + 2 * 5 * 8 * 16,
    ),
    "lstm": (nn.LSTM(8, 6, batch_first=True), [(1, 5, 8)], 5 * 4 * 6 * (8 + 6)),
    "gru": (nn.GRU(8, 6, batch_first=True), [(1, 5, 8)], 5 * 3 * 6 * (8 + 6)),
    "bilinear": (nn.Bilinear(4, 5, 3), [(2, 4), (2, 5)], 2 * 3 * 4 * 5),
    "written out": (Written(), [(2, 3, 4), (2, 4, 5)], 5 * 2 * 3 * 4 * 5),
    "nothing to multiply": (nn.Sequential(nn.BatchNorm1d(4), nn.GELU(), nn.Softmax(1)), [(2, 4)], 0),
    "VGG-16": (None, [(1, 3, 224, 224)], 15_470_264_320),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case):
    model, shapes, expected = CASES[case]
    if model is None:
        with torch.device("meta"):
            model = sequential_vgg16()
            inputs = [torch.empty(shape) for shape in shapes]
    else:
        inputs = [torch.randn(shape) for shape in shapes]
    macs = count_macs(model, *inputs)
    assert (macs.total, macs.unknown) == (expected, {})
    assert sum(macs.layers.values()) == expected


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case not in ("lstm", "gru", "bilinear", "transformer", "VGG-16") and "att" not in case],
)
def test_torchs_flop_counter_finds_twice_as_many(case):
    """It counts a multiplication and an addition each; fused layers and attention on CPU it does not know."""
    model, shapes, _ = CASES[case]
    inputs = [torch.randn(shape) for shape in shapes]
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model.eval()(*inputs)
    assert flops.get_total_flops() == 2 * count_macs(model, *inputs).total


@pytest.mark.parametrize(
    ("name", "total"),
    [("lenet_300_100", 266_200), ("lenet5", 2_293_000), ("vgg16_bn", 313_201_664)],
)
def test_the_zoo_has_the_published_totals(name, total):
    from tersenet.models import build, input_shape

    assert count_macs(build(ModelSpec(name=name), 0), torch.randn(1, *input_shape(name))).total == total


def test_each_layer_gets_its_own():
    from tersenet.models import build

    macs = count_macs(build(ModelSpec(name="lenet5"), 0), torch.randn(1, 1, 28, 28))
    assert macs.layers == {"conv1": 288_000, "conv2": 1_600_000, "fc1": 400_000, "fc2": 5_000}


def test_embeddings_cost_nothing_and_shared_layers_count_each_time():
    linear = nn.Linear(4, 4)
    model = nn.Sequential(nn.Embedding(10, 4), linear, nn.ReLU(), linear)
    assert count_macs(model, torch.tensor([[1, 2, 3]])).layers == {"1": 2 * 3 * 16}


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    model[1].momentum = 1.0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    count_macs(model, torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()


def test_flags_come_back_after_a_failure():
    model = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        count_macs(model, torch.randn(1, 4))
    assert model.training and not model._forward_hooks and torch.backends.mha.get_fastpath_enabled()


def test_inference_mode_inside_hides_nothing():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.conv = nn.Linear(7, 5), nn.Conv1d(1, 2, 3)

        @torch.inference_mode()
        def forward(self, x):
            return self.conv(self.layer(x)) @ torch.ones(3, 4)

    macs = count_macs(Inside(), torch.randn(2, 1, 7))
    assert macs.layers == {"layer": 2 * 35, "conv": 2 * 2 * 3 * 3, "": 2 * 2 * 3 * 4}
    assert macs.unknown == {}


def test_nothing_is_printed(recwarn):
    count_macs(nn.Linear(2, 2), torch.randn(1, 2))
    assert not recwarn.list


def test_an_unknown_product_is_reported_and_not_taken_for_nothing():
    class Odd(nn.Module):
        def forward(self, x):
            torch.lgamma(F.interpolate(x[None], size=(6, 6), mode="bilinear"))  # no products, despite their names
            return torch.fft.fft(x[0]), torch.cdist(x, x), torch.sparse.mm(x[0].to_sparse(), x[0])

    macs = count_macs(Odd(), torch.randn(1, 3, 3))
    assert macs.unknown == {"aten::_fft_r2c": 1, "aten::_cdist_forward": 1, "aten::_sparse_addmm": 1}


def test_operators_of_other_libraries_are_unknown():
    with torch.library._scoped_library("tersenet_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")

        class Custom(nn.Module):
            def forward(self, x):
                return torch.ops.tersenet_test.twice(x)

        assert count_macs(Custom(), torch.randn(2)).unknown == {"tersenet_test::twice": 1}


class Low(nn.Module):
    """A parametrization with products of its own, one of them in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, weight):
        return torch.eye(len(weight)) @ self.inner(weight.T).T


def test_forming_a_weight_is_not_counted():
    model = nn.Sequential(nn.Linear(7, 5))
    parametrize.register_parametrization(model[0], "weight", Low())
    assert count_macs(model, torch.randn(1, 7)).layers == {"0": 35}


def test_nonzero_counts_each_layer_by_its_share():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight[1:].zero_()
        model[2].weight.view(-1)[:12].zero_()
    macs = count_macs(model, torch.randn(1, 1, 4, 4))
    assert macs.layers == {"0": 4 * 4 * 9, "2": 48}
    assert macs.nonzero == 4 * 9 + 36


def test_nonzero_looks_at_the_weight_that_the_layer_computes_with():
    class Half(nn.Module):
        def forward(self, weight):
            return weight * (torch.arange(weight.shape[1]) % 2)

    model = nn.Linear(8, 3)
    parametrize.register_parametrization(model, "weight", Half())
    wrapped = nn.Sequential(model)
    assert count_macs(wrapped, torch.randn(1, 8)).nonzero == 12


def test_nonzero_of_attention_counts_each_projection_and_the_products_of_activations_in_full():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    macs = count_macs(model, torch.randn(1, 5, 8))
    assert set(macs.layers) == {"0.self_attn", "0.linear1", "0.linear2"}
    with torch.no_grad():
        model[0].self_attn.out_proj.weight.zero_()
    assert count_macs(model, torch.randn(1, 5, 8)).nonzero == macs.total - 5 * 8 * 8


def test_products_without_weights_count_in_full():
    macs = count_macs(Written(), torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))
    assert macs.nonzero == macs.total


def test_nonzero_follows_what_is_computed_from_weights_alone():
    """The forward of a binary or standardized layer makes its weight itself."""

    class Kept(nn.Linear):
        def forward(self, x):
            return F.linear(x, torch.where(self.weight > 0, 1.0, 0.0))

    model = Kept(4, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1, -1, -1], [1, 1, -1, -1], [-1, -1, -1, -1]]))
    assert count_macs(model, torch.randn(2, 4)).nonzero == 2 * 3


def test_weights_in_modules_without_a_forward_are_layers_of_their_own():
    """As in a network that is run from its stored operators."""

    class Stored(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Module()
            self.fc.weight = nn.Parameter(torch.eye(4))

        def forward(self, x):
            return torch.relu(torch.ops.aten.linear.default(x, self.fc.weight))

    macs = count_macs(Stored(), torch.randn(2, 4))
    assert (macs.layers, macs.nonzero) == ({"fc": 2 * 16}, 2 * 4)
