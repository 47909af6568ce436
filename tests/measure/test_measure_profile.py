"""Layers of a profile against closed forms, torch's FLOP counter, and liveness by brute force on the exported graph."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tersenet.core.profile import total
from tersenet.core.recipe import ModelSpec
from tersenet.measure.memory import live_bytes, peak_bytes
from tersenet.measure.operations import Operation, Pass
from tersenet.measure.profile import beside, costs, profile
from tersenet.measure.timing import layer_seconds
from tersenet.measure.walk import walk
from tersenet.models import build, input_shape

WORD = 4


def zoo(name):
    return build(ModelSpec(name=name), 0), torch.randn(1, *input_shape(name))


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "resnet20", "vgg11_bn", "densenet40", "vit_cifar"])
def test_sums_over_layers_agree_with_torchs_flop_counter_and_with_the_parameters(name):
    model, x = zoo(name)
    found = total(costs(profile(model, x)).values())
    with (
        FlopCounterMode(display=False) as flops,
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model.eval()(x)
    assert 2 * found.macs == flops.get_total_flops()
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values()) - _idle(model)


def _idle(model):
    """Counters of batch norm, which no operator reads in eval mode."""
    return sum(8 for name in model.state_dict() if name.endswith("num_batches_tracked"))


def test_each_layer_has_what_it_returns_reads_and_writes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    network = profile(model, torch.randn(2, 3, 6, 6))
    conv, relu, linear = (costs(network)[name] for name in ("0", "1", "3"))
    given, maps = 2 * 3 * 36 * WORD, 2 * 8 * 36 * WORD
    assert [layer.kind for layer in network.layers] == ["Conv2d", "ReLU", "Linear"]  # a view computes nothing
    assert (conv.macs, conv.parameters, conv.outputs) == (2 * 36 * 8 * 27, 8 * 27 + 8, 2 * 8 * 36)
    assert (conv.weight_traffic, conv.activation_traffic) == (conv.bytes, given + maps) and conv.bytes == 224 * WORD
    assert (relu.macs, relu.parameters, relu.traffic, relu.output_bytes) == (0, 0, 2 * maps, maps)
    assert (linear.macs, linear.activation_traffic) == (2 * 8 * 36 * 10, maps + 2 * 10 * WORD)
    assert (conv.live_bytes, relu.live_bytes, linear.live_bytes) == (given + maps, 2 * maps, maps + 20 * WORD)
    assert network.peak == 2 * maps


class Chain(nn.Module):
    def forward(self, x):
        return torch.tanh(torch.relu(x.sin()).cos()).sum(1)


class Residual(nn.Module):
    def forward(self, x):
        y = torch.relu(x) + 1
        z = torch.tanh(y).exp().sin()
        return (y + z).sum(0)


class Concatenation(nn.Module):
    def forward(self, x):
        a, b = x.sin(), x.cos()
        c = torch.cat([x, a, b.sum(1, keepdim=True)], 1)
        return c.exp()[:, :1] * b, a.mean(1)


class InPlace(nn.Module):
    def forward(self, x):
        y = x.sin()
        y.relu_()
        z = y.view(-1).cos()
        return z.view(2, -1).transpose(0, 1) + 1


class Branches(nn.Module):
    def forward(self, x):
        parts = [torch.relu(x + n) for n in range(4)]
        return parts[0] + parts[1] + parts[2] + parts[3]


def by_brute_force(model, x):
    """Every tensor of the exported graph at every moment: alive if made by then and used again, or returned.

    Views and in-place results are followed to the tensor that they lie in, by the operator's name.
    """
    graph = torch.export.export(model, (x,)).graph
    base, size, moment, made, used = {}, {}, 0, {}, {}
    moments = []
    for node in graph.nodes:
        if node.op == "placeholder":
            base[node], size[node], made[node] = node, node.meta["val"].numel() * WORD, 0
        if node.op == "output":
            for value in node.args[0]:
                used[base[value]] = len(moments)
        if node.op != "call_function":
            continue
        name = node.target.__name__.split(".")[0]
        operands = [base[argument] for argument in node.all_input_nodes]
        if name in ("view", "transpose", "slice"):
            base[node] = operands[0]
            continue
        for operand in operands:
            used[operand] = moment
        base[node] = operands[0] if name.endswith("_") else node
        if base[node] is node:
            size[node], made[node], used[node] = node.meta["val"].numel() * WORD, moment, moment
        moments.append(name)
        moment += 1
    return [sum(size[node] for node in size if made[node] <= now <= used.get(node, -1)) for now in range(moment)]


@pytest.mark.parametrize("model", [Chain(), Residual(), Concatenation(), InPlace(), Branches()])
def test_liveness_is_that_of_brute_force(model):
    x = torch.randn(4, 6)
    found = walk(model, x)
    assert live_bytes(found) == by_brute_force(model, x)
    assert peak_bytes(found) == max(by_brute_force(model, x))


def test_liveness_in_numbers():
    """By hand: of 24 entries of 4 bytes each; a concatenation of x (24), its sine (24) and a column (4)."""
    assert peak_bytes(walk(Chain(), torch.randn(4, 6))) == 2 * 96
    assert peak_bytes(walk(Residual(), torch.randn(4, 6))) == 3 * 96
    assert live_bytes(walk(Concatenation(), torch.randn(4, 6)))[3] == 3 * 96 + 16 + (24 + 24 + 4) * WORD
    assert live_bytes(walk(InPlace(), torch.randn(4, 6))) == [192, 96, 192, 192]


def test_liveness_of_any_pass_is_that_of_brute_force():
    """Random schedules of abstract storages, without a model."""
    rng = torch.Generator().manual_seed(0)

    def some(n, most):
        return frozenset(
            torch.randint(0, n, (int(torch.randint(0, most, (1,), generator=rng)),), generator=rng).tolist()
        )

    for _ in range(50):
        sizes = {n: 1 << n for n in range(12)}
        steps = [(some(12, 4), some(12, 3)) for _ in range(8)]
        made, kept = set(some(12, 3)), []
        given = frozenset(made)
        for reads, writes in steps:  # nothing is read before it is there
            kept.append((frozenset(reads & made), writes))
            made |= writes
        returned = frozenset(list(made)[:2])
        found = Pass([operation(r, w) for r, w in kept], sizes, given, returned)
        touched = [r | w for r, w in kept]

        def alive(storage, now, touched=touched, given=given, returned=returned):
            moments = [m for m, storages in enumerate(touched) if storage in storages]
            begun = storage in given or any(m <= now for m in moments)
            ends = returned and storage in returned and (storage in given or moments)
            return begun and bool(ends or any(m >= now for m in moments))

        expected = [sum(sizes[s] for s in sizes if alive(s, now)) for now in range(len(kept))]
        assert live_bytes(found) == expected


def operation(reads, writes):
    return Operation("", "any", 0, 0, reads, writes, frozenset(), 0, 0, 0)


def test_a_batch_scales_activations_and_not_weights():
    model, x = zoo("resnet20")
    one, four = (profile(model, x.expand(n, -1, -1, -1)) for n in (1, 4))
    assert four.macs.total == 4 * one.macs.total
    assert profile(model, x.expand(4, -1, -1, -1).contiguous()).peak == 4 * one.peak
    weights = [sum(cost.weight_traffic for cost in costs(network).values()) for network in (one, four)]
    assert weights[0] == weights[1]


def test_an_example_out_of_a_batch_takes_its_own_memory():
    batch = torch.randn(100, 6)
    assert peak_bytes(walk(Chain(), batch[:4])) == peak_bytes(walk(Chain(), batch[:4].clone())) == 2 * 96


def test_an_expanded_tensor_takes_the_memory_that_it_takes():
    assert walk(Chain(), torch.randn(1, 6).expand(5, 6)).operations[0].read_bytes == 6 * WORD


def test_shared_layers_and_weights_count_once_as_parameters_and_each_time_as_work():
    linear, tied = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    tied.weight = linear.weight
    model = nn.Sequential(linear, nn.ReLU(), linear, tied)
    network = profile(model, torch.randn(1, 4))
    found = costs(network)
    assert [(layer.name, layer.calls) for layer in network.layers] == [("0", 2), ("1", 1), ("3", 1)]
    assert (found["0"].macs, found["0"].parameters, found["0"].weight_traffic) == (32, 20, 2 * 20 * WORD)
    assert (found["3"].macs, found["3"].parameters, found["3"].weight_traffic) == (16, 0, 16 * WORD)


def test_parameters_that_lie_in_one_block_of_memory_are_told_apart():
    block = torch.randn(20)
    model = nn.Linear(4, 4)
    model.weight, model.bias = nn.Parameter(block[:16].view(4, 4)), nn.Parameter(block[16:])
    assert costs(profile(model, torch.randn(1, 4)))[""].parameters == 20
    lstm = nn.LSTM(3, 5, batch_first=True)
    assert costs(profile(lstm, torch.randn(1, 2, 3)))[""].parameters == sum(p.numel() for p in lstm.parameters())


def test_layers_whose_parameters_lie_in_one_block_of_memory_have_each_their_own():
    block = torch.randn(24)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[0].weight, model[1].weight = nn.Parameter(block[:16].view(4, 4)), nn.Parameter(block[16:].view(2, 4))
    assert [cost.parameters for cost in costs(profile(model, torch.randn(1, 4))).values()] == [16, 8]


def test_a_tensor_that_was_there_before_is_a_weight_though_it_is_no_parameter():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.eye(4)

        def forward(self, x):
            return x @ self.matrix

    network = profile(Fixed(), torch.randn(2, 4))
    (found,) = costs(network).values()
    assert (found.macs, found.nonzero, found.parameters) == (32, 8, 0)
    assert (found.weight_traffic, found.activation_traffic, network.peak) == (16 * WORD, 16 * WORD, 16 * WORD)


def test_a_look_up_reads_the_rows_it_returns():
    found = costs(profile(nn.Sequential(nn.Embedding(1000, 8)), torch.tensor([[1, 2, 3]])))["0"]
    assert (found.macs, found.parameters, found.weight_traffic) == (0, 8000, 3 * 8 * WORD)


def test_an_unknown_operator_is_unknown_and_not_zero():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).abs()

    model = nn.Sequential(nn.Linear(4, 4), Spectrum())
    network = profile(model, torch.randn(1, 4))
    found = costs(network)
    assert (found["0"].macs, found["1"].macs, found["1"].nonzero, found["1"].energy) == (16, None, None, None)
    assert beside(network, found)[1].unknown == ("aten::_fft_r2c",)
    assert found["1"].traffic > 0


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_tensors_do_not_stop_it(layout):
    class Sparse(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(x.to_sparse(layout=layout), x).relu()

    assert profile(Sparse(), torch.eye(3)).macs.unknown
    assert costs(profile(Sparse(), torch.eye(3)))[""].macs is None


def test_compressed_beside_dense():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
    small = nn.Sequential(model[0])
    dense, file = profile(model, torch.randn(1, 8)), profile(small, torch.randn(1, 8))
    stored = {"0.weight": 20, "0.bias": 12}
    rows = beside(dense, costs(dense), file, costs(file, stored=stored))
    assert [(row.name, row.dense is not None, row.file is not None) for row in rows] == [
        ("0", True, True),
        ("1", True, False),
        ("2", True, False),
    ]
    kept = rows[0].file
    assert (kept.macs, kept.nonzero, kept.bytes, rows[0].dense.bytes) == (32, 16, 32, 36 * WORD)
    assert kept.energy.weights == pytest.approx(32 / 4 * 640)
    assert kept.energy.arithmetic == pytest.approx(16 * 4.6)
    assert rows[0].dense.energy.arithmetic == pytest.approx(32 * 4.6)


def test_times_of_layers_do_not_hold_those_of_layers_inside():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(600, 600)

        def forward(self, x):
            return F.relu(self.inner(x))

    model = nn.Sequential(Slow()).train()
    whole, parts = layer_seconds(model, torch.randn(200, 600), most=5)
    assert set(parts) == {"", "0", "0.inner"}
    assert parts["0.inner"] > parts["0"] > 0
    assert sum(parts.values()) == pytest.approx(whole, rel=0.5)
    assert model.training and model[0].training and not model[0]._forward_hooks


def test_every_layer_of_the_zoo_that_multiplies_returns_something():
    for name in ("densenet40", "vit_cifar", "bnn"):
        for layer in profile(*zoo(name)).layers:
            assert layer.outputs[0] > 0 and layer.calls > 0, (name, layer.name)
