"""Every operator in a tiny model: which groups there are, stated by hand, and removal against masking by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.graph import ChannelGraph, remove

Units = int | list[list[int]] | np.ndarray
"""Elements of each unit; a number n says one element each, 0 to n − 1."""


class Net(nn.Module):
    """Named layers and a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, nn.Parameter(layer) if isinstance(layer, torch.Tensor) else layer)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


@dataclass
class Case:
    """`groups`: every prunable one, as "tensor/dimension" → units. `fixed`: tensor/dimension → part of the reason."""

    net: Net
    shape: tuple[int, ...]
    groups: list[dict[str, Units]]
    fixed: dict[str, str]


CASES: dict[str, Callable[[], Case]] = {}


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = function
    return function


def rows(units: int, width: int) -> np.ndarray:
    """Units of `width` consecutive elements."""
    return np.arange(units * width).reshape(units, width)


def columns(units: int, width: int) -> np.ndarray:
    """Units of every `units`-th element."""
    return rows(width, units).T


def same(n: int, *places: str) -> dict[str, Units]:
    return dict.fromkeys(places, n)


def conv(i: int, o: int, k: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **more)


OUT = {"head.weight/0": "output of the model"}
PICTURE = (2, 3, 6, 6)


@case
def residual() -> Case:
    net = Net(lambda m, x: m.head((m.a(x) + m.b(m.a(x).relu())).relu()), a=conv(3, 8), b=conv(8, 8), head=conv(8, 2))
    places = ("a.weight/0", "a.bias/0", "b.weight/0", "b.weight/1", "b.bias/0", "head.weight/1")
    return Case(net, PICTURE, [same(8, *places)], OUT)


@case
def squeeze_and_excite() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).relu()
        return m.head(y * m.up(m.down(F.adaptive_avg_pool2d(y, 1)).relu()).relu())

    net = Net(forward, a=conv(3, 8), down=conv(8, 4), up=conv(4, 8), head=conv(8, 2))
    wide = same(8, "a.weight/0", "a.bias/0", "down.weight/1", "up.weight/0", "up.bias/0", "head.weight/1")
    return Case(net, PICTURE, [wide, same(4, "down.weight/0", "down.bias/0", "up.weight/1")], OUT)


@case
def concatenation() -> Case:
    net = Net(lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 4), b=conv(3, 6), head=conv(10, 2))
    second: dict[str, Units] = {"b.weight/0": 6, "b.bias/0": 6, "head.weight/1": np.arange(4, 10)[:, None]}
    return Case(net, PICTURE, [same(4, "a.weight/0", "a.bias/0", "head.weight/1"), second], OUT)


@case
def chunk() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        one, other = m.a(x).chunk(2, 1)
        return m.head(one.relu()) + m.head2(other)

    net = Net(forward, a=conv(3, 8), head=conv(4, 2), head2=conv(4, 2))
    halves = columns(4, 2)
    group: dict[str, Units] = {"a.weight/0": halves, "a.bias/0": halves, "head.weight/1": 4, "head2.weight/1": 4}
    return Case(net, PICTURE, [group], OUT)


@case
def gated_linear_unit() -> Case:
    net = Net(lambda m, x: m.head(F.glu(m.a(x), 1)), a=conv(3, 8), head=conv(4, 2))
    group: dict[str, Units] = {"a.weight/0": columns(4, 2), "a.bias/0": columns(4, 2), "head.weight/1": 4}
    return Case(net, PICTURE, [group], OUT)


@case
def gated_by_silu() -> Case:
    net = Net(lambda m, x: m.head(F.silu(m.gate(x)) * m.up(x)), gate=nn.Linear(6, 8), up=nn.Linear(6, 8),
              head=nn.Linear(8, 2))  # fmt: skip
    return Case(
        net, (2, 6), [same(8, "gate.weight/0", "gate.bias/0", "up.weight/0", "up.bias/0", "head.weight/1")], OUT
    )


@case
def depthwise() -> Case:
    net = Net(lambda m, x: m.head(m.d(m.a(x))), a=conv(3, 8), d=conv(8, 8, 3, padding=1, groups=8), head=conv(8, 2))
    return Case(net, PICTURE, [same(8, "a.weight/0", "a.bias/0", "d.weight/0", "d.bias/0", "head.weight/1")], OUT)


@case
def grouped() -> Case:
    """Whole groups, and the same input channel of every group, or output channel of every group."""
    net = Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 8), g=conv(8, 12, groups=4), head=conv(12, 2))
    whole: dict[str, Units] = {
        **dict.fromkeys(("a.weight/0", "a.bias/0"), rows(4, 2)),
        **dict.fromkeys(("g.weight/0", "g.bias/0", "head.weight/1"), rows(4, 3)),
    }
    inputs: dict[str, Units] = {"a.weight/0": columns(2, 4), "a.bias/0": columns(2, 4), "g.weight/1": 2}
    outputs = dict.fromkeys(("g.weight/0", "g.bias/0", "head.weight/1"), columns(3, 4))
    return Case(net, PICTURE, [whole, inputs, outputs], OUT)


@case
def norms() -> Case:
    net = Net(lambda m, x: m.head(m.i(m.n(m.a(x)))), a=conv(3, 8), n=nn.BatchNorm2d(8),
              i=nn.InstanceNorm2d(8, affine=True), head=conv(8, 2))  # fmt: skip
    places = ("a.weight/0", "a.bias/0", "n.weight/0", "n.bias/0", "n.running_mean/0", "n.running_var/0")
    return Case(net, PICTURE, [same(8, *places, "i.weight/0", "i.bias/0", "head.weight/1")], OUT)


@case
def group_norm() -> Case:
    net = Net(lambda m, x: m.head(m.n(m.a(x))), a=conv(3, 8), n=nn.GroupNorm(4, 8), head=conv(8, 2))
    places = ("a.weight/0", "a.bias/0", "n.weight/0", "n.bias/0", "head.weight/1")
    return Case(net, PICTURE, [dict.fromkeys(places, rows(4, 2))], OUT)


@case
def layer_norm() -> Case:
    net = Net(lambda m, x: m.head(m.b(m.n(m.a(x))).relu()), a=nn.Linear(6, 8), n=nn.LayerNorm(8), b=nn.Linear(8, 10),
              head=nn.Linear(10, 2))  # fmt: skip
    return Case(net, (2, 5, 6), [same(10, "b.weight/0", "b.bias/0", "head.weight/1")],
                {**OUT, "a.weight/0": "layer_norm", "n.weight/0": "layer_norm", "a.weight/1": "input"})  # fmt: skip


@case
def flattened() -> Case:
    net = Net(lambda m, x: m.head(F.max_pool2d(m.a(x), 2).flatten(1)), a=conv(3, 8), head=nn.Linear(72, 2))
    return Case(net, PICTURE, [{"a.weight/0": 8, "a.bias/0": 8, "head.weight/1": rows(8, 9)}], OUT)


@case
def shuffled() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.head(y.view(y.shape[0], 2, -1, 6, 6).transpose(1, 2).reshape(y.shape[0], -1, 6, 6))

    net = Net(forward, a=conv(3, 8), head=conv(8, 2))
    group: dict[str, Units] = {"a.weight/0": columns(4, 2), "a.bias/0": columns(4, 2), "head.weight/1": rows(4, 2)}
    return Case(net, PICTURE, [group], OUT)


def _attention(m: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, explicit: bool) -> torch.Tensor:
    """(N, L, heads · 4) each; heads by −1, so that nothing is written into the code."""
    q, k, v = (t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in (q, k, v))
    if explicit:
        mixed = ((q @ k.transpose(-1, -2)) * 0.5).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=k.shape[1] != q.shape[1])
    return m.head(mixed.transpose(1, 2).flatten(2))


QKV = ("q.weight/0", "q.bias/0", "k.weight/0", "k.bias/0", "v.weight/0", "v.bias/0")


def _separate(explicit: bool) -> Net:
    layers = {name: nn.Linear(6, 12) for name in "qkv"}
    return Net(lambda m, x: _attention(m, m.q(x), m.k(x), m.v(x), explicit), **layers, head=nn.Linear(12, 2))


@case
def attention() -> Case:
    heads = dict.fromkeys((*QKV, "head.weight/1"), rows(3, 4))
    return Case(_separate(False), (2, 5, 6), [heads], {**OUT, "q.weight/0": "root of its size"})


@case
def attention_by_products() -> Case:
    heads = dict.fromkeys((*QKV, "head.weight/1"), rows(3, 4))
    return Case(_separate(True), (2, 5, 6), [heads], OUT)


@case
def fused_attention() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.qkv(x).unflatten(-1, (3, -1, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return m.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    fused = np.stack([np.concatenate([t * 12 + h * 4 + np.arange(4) for t in range(3)]) for h in range(3)])
    net = Net(forward, qkv=nn.Linear(6, 36), head=nn.Linear(12, 2))
    group: dict[str, Units] = {"qkv.weight/0": fused, "qkv.bias/0": fused, "head.weight/1": rows(3, 4)}
    return Case(net, (2, 5, 6), [group], OUT)


@case
def grouped_queries() -> Case:
    layers = {"q": nn.Linear(6, 24), "k": nn.Linear(6, 12), "v": nn.Linear(6, 12)}
    net = Net(lambda m, x: _attention(m, m.q(x), m.k(x), m.v(x), False), **layers, head=nn.Linear(24, 2))
    group: dict[str, Units] = {
        **dict.fromkeys(QKV[2:], rows(3, 4)),
        **dict.fromkeys(("q.weight/0", "q.bias/0", "head.weight/1"), rows(3, 8)),
    }
    return Case(net, (2, 5, 6), [group], OUT)


@case
def transposed() -> Case:
    net = Net(lambda m, x: m.head(m.t(m.a(x))), a=conv(3, 8), t=nn.ConvTranspose2d(8, 6, 3), head=conv(6, 2))
    return Case(net, PICTURE, [same(8, "a.weight/0", "a.bias/0", "t.weight/0"),
                               same(6, "t.weight/1", "t.bias/0", "head.weight/1")], OUT)  # fmt: skip


@case
def transposed_in_groups() -> Case:
    net = Net(lambda m, x: m.head(m.t(m.a(x))), a=conv(3, 8), t=nn.ConvTranspose2d(8, 12, 3, groups=4),
              head=conv(12, 2))  # fmt: skip
    whole: dict[str, Units] = {
        **dict.fromkeys(("a.weight/0", "a.bias/0", "t.weight/0"), rows(4, 2)),
        **dict.fromkeys(("t.bias/0", "head.weight/1"), rows(4, 3)),
    }
    inputs = dict.fromkeys(("a.weight/0", "a.bias/0", "t.weight/0"), columns(2, 4))
    outputs: dict[str, Units] = {"t.weight/1": 3, "t.bias/0": columns(3, 4), "head.weight/1": columns(3, 4)}
    return Case(net, PICTURE, [whole, inputs, outputs], OUT)


@case
def layer_scale_and_direct_parameters() -> Case:
    net = Net(lambda m, x: m.head(m.a(x) * m.scale + m.shift), a=nn.Linear(6, 8), scale=torch.ones(8),
              shift=torch.zeros(1, 1, 8), head=nn.Linear(8, 2))  # fmt: skip
    return Case(net, (2, 5, 6), [same(8, "a.weight/0", "a.bias/0", "scale/0", "shift/2", "head.weight/1")], OUT)


@case
def multiplied_parameter() -> Case:
    net = Net(lambda m, x: (x @ m.w).relu() @ m.v, w=torch.randn(6, 8), v=torch.randn(8, 2))
    return Case(net, (2, 6), [same(8, "w/1", "v/0")], {"v/1": "output"})


@case
def shared_layer() -> Case:
    net = Net(lambda m, x: m.head(m.b(m.b(m.a(x)).relu())), a=conv(3, 8), b=conv(8, 8), head=conv(8, 2))
    return Case(net, PICTURE, [same(8, "a.weight/0", "a.bias/0", "b.weight/0", "b.weight/1", "b.bias/0",
                                    "head.weight/1")], OUT)  # fmt: skip


@case
def embedded() -> Case:
    net = Net(lambda m, x: m.head(m.e(x.abs().long() % 9)), e=nn.Embedding(9, 8), head=nn.Linear(8, 2))
    return Case(net, (2, 5), [same(8, "e.weight/1", "head.weight/1")], OUT)


@case
def one_dimension_dilated() -> Case:
    net = Net(lambda m, x: m.head(m.p(m.a(x))), a=nn.Conv1d(3, 8, 3, dilation=2), p=nn.PReLU(8),
              head=nn.Conv1d(8, 2, 1))  # fmt: skip
    return Case(net, (2, 3, 9), [same(8, "a.weight/0", "a.bias/0", "p.weight/0", "head.weight/1")], OUT)


@case
def three_dimensions() -> Case:
    net = Net(lambda m, x: m.head(m.a(x).relu()), a=nn.Conv3d(3, 8, 2), head=nn.Conv3d(8, 2, 1))
    return Case(net, (1, 3, 4, 4, 4), [same(8, "a.weight/0", "a.bias/0", "head.weight/1")], OUT)


@case
def einstein() -> Case:
    net = Net(lambda m, x: m.head(torch.einsum("bli,io->blo", x, m.w).relu()), w=torch.randn(6, 8),
              head=nn.Linear(8, 2))  # fmt: skip
    return Case(net, (2, 5, 6), [same(8, "w/1", "head.weight/1")], OUT)


@case
def pixels_shuffled() -> Case:
    net = Net(lambda m, x: m.head(F.pixel_shuffle(m.a(x), 2)), a=conv(3, 16), head=conv(4, 2))
    return Case(net, PICTURE, [{"a.weight/0": rows(4, 4), "a.bias/0": rows(4, 4), "head.weight/1": 4}], OUT)


@case
def padded_and_resized() -> Case:
    net = Net(lambda m, x: m.head(F.interpolate(F.pad(m.a(x), (1, 1, 1, 1)), scale_factor=2)), a=conv(3, 8),
              head=conv(8, 2))  # fmt: skip
    return Case(net, PICTURE, [same(8, "a.weight/0", "a.bias/0", "head.weight/1")], OUT)


WRITTEN_DOWN = ("attention", "attention_by_products", "fused_attention", "grouped_queries", "shuffled")
"""Their code gives a further size as a number, which only shows when it runs with another."""


def _elements(units: Units) -> np.ndarray:
    array = np.arange(units)[:, None] if isinstance(units, int) else np.asarray(units)
    return np.sort(array, axis=1)


def _build(name: str) -> tuple[Case, torch.Tensor]:
    torch.manual_seed(0)
    made = CASES[name]()
    with torch.no_grad():
        for parameter in made.net.parameters():
            parameter.normal_()
    return made, torch.randn(made.shape)


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_stated_by_hand(name: str) -> None:
    made, inputs = _build(name)
    graph = ChannelGraph(made.net, inputs)
    assert not graph.unknown
    found = [_members(group) for group in graph if group.prunable]
    expected = [{place: _elements(units).tolist() for place, units in group.items()} for group in made.groups]
    for group in expected:
        assert group in found
    reasons: dict[str, list[str]] = {}
    for group in graph:
        for member in group.members:
            reasons.setdefault(f"{member.tensor}/{member.dim}", []).append(group.reason or "")
    for place, why in made.fixed.items():
        assert any(why in reason for reason in reasons[place]), reasons[place]
    if name not in WRITTEN_DOWN:
        assert len(found) == len(expected)


def _members(group: Any) -> dict[str, list[list[int]]]:
    return {f"{m.tensor}/{m.dim}": np.sort(m.elements, axis=1).tolist() for m in group.members}


@pytest.mark.parametrize("name", CASES)
def test_removal_gives_what_masking_by_hand_gives(name: str) -> None:
    """All that belongs to a unit is zero in the masked copy, so nothing in it needs folding."""
    made, inputs = _build(name)
    made.net.eval()
    for stated in made.groups:
        small = copy.deepcopy(made.net)
        gone = np.arange(0, len(_elements(next(iter(stated.values())))) - 1, 2)
        _zero(small, {place: units for place, units in stated.items() if "bias" in place or "mean" in place}, gone)
        if name == "layer_scale_and_direct_parameters":
            _zero(small, {"shift/2": 8}, gone)
        masked = copy.deepcopy(small)
        _zero(masked, stated, gone)
        graph = ChannelGraph(small, inputs)
        want = {place: _elements(units).tolist() for place, units in stated.items()}
        group = next(group for group in graph if _members(group) == want)
        result = remove(small, graph, {group.name: gone.tolist()})
        assert result.removed and not result.refused
        with torch.no_grad():
            torch.testing.assert_close(small(inputs), masked(inputs), rtol=1e-4, atol=1e-4)
        tensors = {**dict(made.net.named_parameters()), **dict(made.net.named_buffers())}
        after = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        for place, units in stated.items():
            tensor, dim = place.rsplit("/", 1)
            lost = _elements(units)[gone].size
            assert after[tensor].shape[int(dim)] == tensors[tensor].shape[int(dim)] - lost


def _zero(model: nn.Module, places: dict[str, Units], gone: np.ndarray) -> None:
    state = model.state_dict()
    for place, units in places.items():
        tensor, dim = place.rsplit("/", 1)
        state[tensor].index_fill_(int(dim), torch.from_numpy(_elements(units)[gone].ravel()), 0)


@pytest.mark.parametrize("name", CASES)
def test_all_stated_groups_at_once_keep_the_outputs_shape_and_the_check(name: str) -> None:
    made, inputs = _build(name)
    shape = made.net.eval()(inputs).shape
    graph = ChannelGraph(made.net, inputs)
    stated = [{place: _elements(units).tolist() for place, units in group.items()} for group in made.groups]
    result = remove(made.net, graph, {g.name: range(g.units // 2) for g in graph if _members(g) in stated})
    assert len(result.removed) == len(stated) and not result.refused and made.net(inputs).shape == shape
    assert result.difference < 1e-4 < result.change


def test_weight_standardisation_keeps_what_it_normalises_over() -> None:
    """Output channels of a standardised weight are independent of each other, its input channels are not."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        w = m.b.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return m.head(F.conv2d(m.a(x), w, m.b.bias))

    torch.manual_seed(0)
    net = Net(forward, a=conv(3, 8), b=conv(8, 6), head=conv(6, 2)).eval()
    inputs = torch.randn(PICTURE)
    graph = ChannelGraph(net, inputs)
    (group,) = (group for group in graph if group.prunable)
    assert {"b.weight/0", "b.bias/0", "head.weight/1"} == set(_members(group))
    masked = copy.deepcopy(net)
    with torch.no_grad():
        net.b.bias[:3] = 0
        masked.b.bias[:3] = 0
        masked.head.weight[:, :3] = 0
        remove(net, graph, {group.name: [0, 1, 2]})
        torch.testing.assert_close(net(inputs), masked(inputs))
