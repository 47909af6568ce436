"""What stays as it was, what is refused and why, and what becomes of constants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.graph import ChannelGraph, remove

PICTURE = (2, 3, 6, 6)


@torch.library.custom_op("tersenet_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1)


@mystery.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Two(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 1), nn.Conv2d(width, 2, 1), between

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.between(self.a(x)))


def _local(x: torch.Tensor) -> torch.Tensor:
    n, c = x.shape[0], 8
    return x.reshape(n, c, 36).reshape(n, c, 6, 6)


def _selected(x: torch.Tensor) -> torch.Tensor:
    return x * x[x > 0].sum()


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (mystery, "tersenet_tests.mystery"),
        (lambda x: torch.fft.fft(x, dim=1).real, "fft_fft"),
        (lambda x: x.flip(1), "order of its elements"),
        (lambda x: x.softmax(1), "normalises over it"),
        (lambda x: x * x.mean(1, keepdim=True), "reduces over it"),
        (lambda x: F.layer_norm(x, (8, 6, 6)), "normalises it as a whole"),
        (lambda x: x.cumsum(1), "order of its elements"),
        (lambda x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], "by their number"),
        (_selected, "depends on the data"),
    ],
)
def test_what_no_channel_can_leave_names_the_operator_and_the_line(between: Any, why: str) -> None:
    graph = ChannelGraph(Two(between), torch.randn(PICTURE))
    reason = graph["a"].reason
    assert reason is not None and why in reason and "test_graph_removal.py:" in reason
    with pytest.raises(ModelError, match="no unit of 'a' can go"):
        remove(Two(between), graph, {"a": [0]})


@pytest.mark.parametrize("between", [lambda x: x.view(2, 8, -1).view(2, 8, 6, 6), _local])
def test_a_size_in_the_code_shows_at_removal_and_nothing_is_changed(between: Any) -> None:
    net = Two(between)
    before, objects = copy.deepcopy(net.state_dict()), [id(p) for p in net.parameters()]
    graph = ChannelGraph(net, torch.randn(PICTURE))
    result = remove(net, graph, {"a": [0, 1]})
    assert not result.removed
    assert "test_graph_removal.py:" in result.refused["a"] and graph["a"].reason == result.refused["a"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert (net.a.out_channels, net.b.in_channels) == (8, 8)
    assert objects == [id(p) for p in net.parameters()]


def test_outputs_stay() -> None:
    graph = ChannelGraph(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), torch.randn(2, 4))
    assert {group.reason for group in graph} == {"it is an input of the model", "it is an output of the model"}


@pytest.mark.parametrize(
    ("units", "why"),
    [
        ({"nothing": [0]}, "no group 'nothing'"),
        ({"a": [8]}, "units 0 to 7"),
        ({"a": [-1]}, "units 0 to 7"),
        ({"a": range(8)}, "at least one must stay"),
        ({"b": [0]}, "output of the model"),
    ],
)
def test_bad_choices_are_refused_in_one_sentence(units: Any, why: str) -> None:
    net = Two(torch.relu)
    with pytest.raises(ModelError, match=why):
        remove(net, ChannelGraph(net, torch.randn(PICTURE)), units)


def test_units_named_twice_go_once() -> None:
    net = Two(torch.relu)
    result = remove(net, ChannelGraph(net, torch.randn(PICTURE)), {"a": [1, 1, 0]})
    assert result.removed["a"].tolist() == [0, 1] and net.a.weight.shape[0] == 6


def test_a_model_that_cannot_be_exported_says_so() -> None:
    with pytest.raises(ModelError, match="cannot follow Two"):
        ChannelGraph(Two(lambda x: x if x.sum() > 0 else -x), torch.randn(PICTURE))


def _norm_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 2),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_flags_hooks_dtype_format_and_gradients_survive(dtype: torch.dtype) -> None:
    net = _norm_net().to(dtype).to(memory_format=torch.channels_last).train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    calls: list[int] = []
    net[3].register_forward_hook(lambda *_: calls.append(1))
    inputs = torch.randn(PICTURE, dtype=dtype)
    net(inputs).sum().backward()
    gradient, modes = net[3].weight.grad.clone(), [module.training for module in net.modules()]
    objects = {name: id(p) for name, p in net.named_parameters()}
    graph = ChannelGraph(net, inputs)
    result = remove(net, graph, {"0": [0, 3], "3": [5]})
    assert result.removed and not result.refused
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == [False, *[True] * 6]
    assert objects == {name: id(p) for name, p in net.named_parameters()}
    assert all(tensor.dtype in (dtype, torch.int64) for tensor in net.state_dict().values())
    assert net[3].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net[3].weight.grad, gradient[:5, [1, 2, 4, 5, 6, 7]], rtol=0, atol=0)
    before = len(calls)
    net(inputs)
    assert len(calls) == before + 1


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_is_the_one_of_the_masked_model(name: str) -> None:
    """The kept elements of the masked model and its optimizer move exactly as those of the smaller one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    optimizer, inputs = OPTIMIZERS[name](net.parameters()), torch.randn(4, 5)
    for _ in range(3):
        _step(net, optimizer, inputs)
    masked = copy.deepcopy(net)
    twin = OPTIMIZERS[name](masked.parameters())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gone, kept = [1, 4, 5], [0, 2, 3, 6, 7]
    with torch.no_grad():
        masked[0].weight[gone] = 0
        masked[2].weight[:, gone] = 0
    result = remove(net, ChannelGraph(net, inputs), {"0": gone}, optimizer=optimizer)
    assert result.removed
    _step(net, optimizer, inputs), _step(masked, twin, inputs)
    torch.testing.assert_close(net[0].weight, masked[0].weight[kept])
    torch.testing.assert_close(net[2].weight, masked[2].weight[:, kept])
    torch.testing.assert_close(net[2].bias, masked[2].bias)
    first = float(_step(net, optimizer, inputs))
    for _ in range(20):
        last = float(_step(net, optimizer, inputs))
    assert last < first


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(inputs), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_norms_constant_goes_into_the_next_bias() -> None:
    """With its convolution zero, a channel is relu(β − γ·μ/√(σ² + ε)) everywhere."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1)).eval()
    _liven(net[1])
    norm, bias, weight = net[1], net[3].bias.clone(), net[3].weight.detach().clone()
    constant = F.relu(norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()).detach()
    result = remove(net, ChannelGraph(net, torch.randn(PICTURE)), {"0": [1, 2]})
    assert (result.folded, result.dropped) == (1, 0)
    expected = bias + weight[:, [1, 2], 0, 0] @ constant[[1, 2]]
    torch.testing.assert_close(net[3].bias, expected)


def test_without_a_bias_it_goes_into_the_next_norms_mean() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)
    ).eval()
    _liven(net[3])
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([0.5, 1.0, -1.0, 2.0]))
    mean, weight = net[3].running_mean.clone(), net[2].weight.detach().clone()
    masked = copy.deepcopy(net)
    result = remove(net, ChannelGraph(net, torch.randn(PICTURE)), {"0": [1]})
    with torch.no_grad():
        masked[0].weight[1] = 0
        inputs = torch.randn(PICTURE)
        if result.folded:  # the bias of the channel itself counts as its constant, 1.0
            masked[2](masked[1](masked[0](inputs)))
            torch.testing.assert_close(net[3].running_mean, mean - weight[:, 1, 0, 0])
        else:  # or goes with the channel
            masked[0].bias[1] = 0
        torch.testing.assert_close(net(inputs), masked(inputs))


def test_before_a_padded_convolution_the_constant_is_dropped_and_reported() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)).eval()
    _liven(net[1])
    with torch.no_grad():
        net[1].running_mean.zero_()
        net[1].bias.fill_(0.75)
        net[0].bias.zero_()
    masked = copy.deepcopy(net)
    result = remove(net, ChannelGraph(net, torch.randn(PICTURE)), {"0": [2]})
    assert (result.folded, result.dropped) == (0, 1) and result.worst == pytest.approx(0.75)
    with torch.no_grad():
        masked[2].weight[:, 2] = 0
        inputs = torch.randn(PICTURE)
        torch.testing.assert_close(net(inputs), masked(inputs))


def test_a_removal_that_would_change_the_result_is_taken_back_bit_for_bit() -> None:
    """The width is read from the tensor at run time, where no graph can see it."""
    net = Two(lambda x: x * x.shape[1]).eval()
    before, inputs = copy.deepcopy(net.state_dict()), torch.randn(PICTURE)
    expected = net(inputs)
    result = remove(net, ChannelGraph(net, inputs), {"a": [0, 1, 2]})
    assert not result.removed and "would differ" in result.refused["a"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(net(inputs), expected)


def _liven(norm: nn.Module) -> None:
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
