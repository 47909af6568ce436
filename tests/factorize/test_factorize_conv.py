"""Convolutions as chains: exact at full rank whatever their options, and as tensorly reconstructs them below it."""

from __future__ import annotations

from typing import Any

import pytest
import tensorly
import torch
from tensorly.cp_tensor import CPTensor
from tensorly.decomposition import parafac
from torch import nn
from torch.nn.utils import parametrize

import tersenet.factorize  # noqa: F401
from tersenet.core.errors import ModelError
from tersenet.factorize.conv import compose, decompose, tucker
from tersenet.factorize.cp import alternating, cp
from tersenet.factorize.moments import moment_of
from tersenet.graph.edits import apply, change, noted
from tersenet.graph.factors import RANKS, factored, largest, obstacle, shape_of

KINDS = ("svd", "channel", "spatial", "cp", "tucker", "depthwise")

LAYERS: dict[str, Any] = {
    "plain": lambda: nn.Conv2d(5, 6, 3),
    "stride": lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 3), padding=(1, 2)),
    "dilation": lambda: nn.Conv2d(6, 4, 3, dilation=(2, 1), padding=2, bias=False),
    "groups": lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1),
    "same": lambda: nn.Conv2d(3, 4, (2, 4), padding="same"),
    "valid": lambda: nn.Conv2d(3, 4, (3, 1), padding="valid", stride=2),
    "reflect": lambda: nn.Conv2d(4, 3, 3, padding=(1, 2), padding_mode="reflect", stride=2),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2),
}


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def in_place(layer: nn.Module, kind: str, ranks: tuple[int, ...]) -> Holder:
    """A model whose layer has become factors, of the layer's weight."""
    model = Holder(layer)
    weight = layer.weight.detach().double()  # type: ignore[union-attr, operator]
    groups = getattr(layer, "groups", 1)
    change(model, "layer", f"{kind}_factors", dict(zip(RANKS[kind], ranks, strict=True)))
    found = [decompose(kind, part, ranks) for part in weight.reshape(groups, -1, *weight.shape[1:])]
    with torch.no_grad():
        for factor, parts in zip(model.layer, zip(*found, strict=True), strict=True):  # type: ignore[call-overload]
            factor.weight.copy_(torch.cat(parts))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_at_full_rank_the_factors_give_what_the_layer_gives(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(2, layer.in_channels, 11, 12)
    model = in_place(layer, kind, largest(kind, shape_of(layer)))
    assert all(type(factor) is nn.Conv2d for factor in model.layer)
    assert [factor.bias is not None for factor in model.layer][:-1] == [False] * (len(model.layer) - 1)
    torch.testing.assert_close(model(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["svd", "channel", "tucker", "depthwise"])
@pytest.mark.parametrize("layer", [nn.Conv1d(4, 5, 3, 2, 1), nn.Conv3d(3, 4, (1, 2, 3), groups=1, padding=1)], ids=str)
def test_other_dimensions(kind: str, layer: Any) -> None:
    x = torch.randn(2, layer.in_channels, *[7] * len(layer.kernel_size))
    model = in_place(layer, kind, largest(kind, shape_of(layer)))
    torch.testing.assert_close(model(x), layer(x), rtol=1e-4, atol=1e-5)


def test_the_chains_are_those_of_the_papers() -> None:
    layer = nn.Conv2d(8, 6, (3, 5), (2, 1), (1, 2), bias=True)

    def kernels(kind: str, *ranks: int) -> list[tuple[Any, ...]]:
        return [
            (f.in_channels, f.out_channels, f.kernel_size, f.stride, f.padding, f.groups)
            for f in factored(layer, kind, ranks)
            if isinstance(f, nn.Conv2d)
        ]

    one, plain, none = (1, 1), (1, 1), (0, 0)
    assert kernels("svd", 4) == [(8, 4, (3, 5), (2, 1), (1, 2), 1), (4, 6, one, plain, none, 1)]
    assert kernels("channel", 4) == [(8, 4, one, plain, none, 1), (4, 6, (3, 5), (2, 1), (1, 2), 1)]
    assert kernels("spatial", 4) == [(8, 4, (3, 1), (2, 1), (1, 0), 1), (4, 6, (1, 5), plain, (0, 2), 1)]
    assert kernels("cp", 4) == [
        (8, 4, one, plain, none, 1),
        (4, 4, (3, 1), (2, 1), (1, 0), 4),
        (4, 4, (1, 5), plain, (0, 2), 4),
        (4, 6, one, plain, none, 1),
    ]
    assert kernels("tucker", 4, 3) == [
        (8, 3, one, plain, none, 1),
        (3, 4, (3, 5), (2, 1), (1, 2), 1),
        (4, 6, one, plain, none, 1),
    ]
    assert kernels("depthwise", 2) == [(8, 16, (3, 5), (2, 1), (1, 2), 8), (16, 6, one, plain, none, 1)]


def test_cp_finds_a_planted_tensor_and_its_terms_have_even_norms() -> None:
    torch.manual_seed(0)
    planted = [torch.randn(size, 4, dtype=torch.float64) for size in (7, 6, 3, 3)]
    weight = torch.einsum("nr,cr,ir,jr->ncij", *planted)
    found = cp(weight, 4, seed=1)
    assert float((compose("cp", found, (4,)) - weight).norm() / weight.norm()) < 1e-3
    norms = torch.stack(
        [found[0].flatten(1).norm(dim=1), found[1].flatten(1).norm(dim=1), found[3].flatten(1).norm(dim=0)]
    )
    torch.testing.assert_close(norms, norms.mean(0).expand_as(norms))
    assert all(torch.equal(a, b) for a, b in zip(found, cp(weight, 4, seed=1), strict=True))


def test_cp_goes_the_way_of_tensorly() -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 6, 3, 2, dtype=torch.float64)
    start = [torch.rand(size, 5, dtype=torch.float64) for size in weight.shape]
    begun = (torch.ones(5, dtype=torch.float64), [factor.clone() for factor in start])
    with tensorly.backend_context("pytorch"):
        theirs = tensorly.cp_to_tensor(parafac(weight, 5, n_iter_max=12, init=CPTensor(begun), tol=0))
    ours = torch.einsum("nr,cr,ir,jr->ncij", *alternating(weight, start, 12, -1))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_cp_of_nothing_is_nothing() -> None:
    assert not compose("cp", cp(torch.zeros(4, 5, 3, 3, dtype=torch.float64), 3, seed=0), (3,)).any()


def test_what_factors_stand_for_is_what_tensorly_reconstructs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 2, dtype=torch.float64)
    b, u, v, a = cp(weight, 3, seed=0)
    columns = [a.flatten(1), b.flatten(1).T, u.flatten(1).T, v.flatten(1).T]
    with tensorly.backend_context("pytorch"):
        torch.testing.assert_close(compose("cp", [b, u, v, a], ()), tensorly.cp_to_tensor((None, columns)))
        first, core, last = tucker(weight, 4, 3)
        expected = tensorly.tucker_to_tensor((core, [last.flatten(1), first.flatten(1).T]), skip_factor=None)
    torch.testing.assert_close(compose("tucker", [first, core, last], ()), expected)


def test_tucker_is_at_least_as_near_as_truncated_unfoldings() -> None:
    """HOOI starts from the truncated higher-order SVD, which numpy gives."""
    torch.manual_seed(0)
    weight = torch.randn(8, 7, 3, 3, dtype=torch.float64)
    u = torch.linalg.svd(weight.flatten(1))[0][:, :4]
    v = torch.linalg.svd(weight.transpose(0, 1).flatten(1))[0][:, :3]
    plain = torch.einsum("ncij,na,ma,cb,db->mdij", weight, u, u, v, v)
    near = compose("tucker", tucker(weight, 4, 3), (4, 3))
    assert float((near - weight).norm()) <= float((plain - weight).norm()) * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["svd", "channel", "spatial"])
def test_below_full_rank_the_error_is_the_tail_of_the_unfolding(kind: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    unfolded = {
        "svd": weight.flatten(1),
        "channel": weight.transpose(0, 1).flatten(1),
        "spatial": weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1),
    }[kind]
    tail = torch.linalg.svdvals(unfolded)[2:].norm()
    torch.testing.assert_close((compose(kind, decompose(kind, weight, (2,)), (2,)) - weight).norm(), tail)


# ---- what cannot be done, and files that ask for it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "kind", "words"),
    [
        (nn.BatchNorm2d(3), "svd", "no linear layer"),
        (nn.MultiheadAttention(4, 2), "svd", "a MultiheadAttention is no linear layer"),
        (nn.ConvTranspose2d(3, 4, 3), "svd", "no linear layer"),
        (nn.Conv2d(4, 8, 3, groups=4), "svd", "depthwise"),
        (nn.Linear(3, 4), "cp", "say 'svd'"),
        (nn.Linear(3, 4), "depthwise", "say 'svd'"),
        (nn.Conv2d(3, 4, 1), "depthwise", "its kernel is 1×1"),
        (nn.Conv2d(3, 4, 1), "spatial", "larger than 1×1"),
        (nn.Conv1d(3, 4, 3), "cp", "two-dimensional"),
        (nn.Embedding(3, 4, max_norm=1.0), "svd", "max_norm"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_factorised(layer: nn.Module, kind: str, words: str) -> None:
    assert words in (obstacle(layer, kind) or "")


def test_a_forward_of_the_user_s_own_is_not_replaced() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    class Named(nn.Linear):
        pass

    assert "a Scaled is no linear layer" in (obstacle(Scaled(3, 3), "svd") or "")
    assert obstacle(Named(3, 3), "svd") is None


@pytest.mark.parametrize(
    "burden",
    [
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
        lambda layer: layer.register_module("inside", nn.ReLU()),
    ],
    ids=["pre-hook", "hook", "parametrized bias", "module"],
)
def test_what_hangs_on_a_layer_is_not_thrown_away(burden: Any) -> None:
    layer = nn.Linear(3, 3)
    burden(layer)
    assert "would be lost" in (obstacle(layer, "svd") or "")


@pytest.mark.parametrize(
    ("path", "kind", "options", "words"),
    [
        ("layer", "svd_factors", {"rank": 0}, "rank 4 at most"),
        ("layer", "svd_factors", {"rank": 2**62}, "rank 4 at most"),
        ("layer", "svd_factors", {"rank": -3}, "rank 4 at most"),
        ("layer", "svd_factors", {"ranks": 2}, "cannot become factors of kind 'svd' by ranks"),
        ("layer", "svd_factors", {}, "by nothing"),
        ("layer", "svd_factors", {"rank": 2, "more": 1}, "cannot become factors"),
        ("layer", "tucker_factors", {"outputs": 3, "inputs": 9}, "rank 4 and 3 at most"),
        ("elsewhere", "svd_factors", {"rank": 2}, "no such layer"),
        ("", "svd_factors", {"rank": 2}, "no such layer"),
    ],
)
def test_hostile_changes_are_refused(path: str, kind: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        change(Holder(nn.Conv2d(3, 4, 3)), path, kind, options)


def test_edits_rebuild_the_factors_in_a_fresh_model_without_drawing_random_numbers() -> None:
    model = in_place(nn.Conv2d(4, 6, 3, groups=2), "tucker", (2, 1))
    fresh, state = Holder(nn.Conv2d(4, 6, 3, groups=2)).eval(), torch.get_rng_state()
    apply(fresh, noted(model), {})
    assert torch.equal(state, torch.get_rng_state())
    assert not fresh.layer.training
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(fresh(x), model(x))


# ---- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_moments_are_those_of_the_rows_that_the_convolution_reads(name: str) -> None:
    """y = W x at every position, so that W E[x xᵀ] Wᵀ is the second moment of what the layer gives."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    model = Holder(layer)
    batches = [(torch.randn(3, layer.in_channels, 9, 10, dtype=torch.float64),) for _ in range(2)]
    moment = moment_of(model, layer, batches, 10**6, lambda call: torch.Generator().manual_seed(call))
    assert moment is not None
    with torch.no_grad():
        outputs = torch.cat([layer(*batch) for batch in batches])
        outputs -= 0 if layer.bias is None else layer.bias[:, None, None]
    rows = outputs.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 4, 2).flatten(1, 3)
    w = layer.weight.detach().reshape(layer.groups, layer.out_channels // layer.groups, -1)
    torch.testing.assert_close(w @ moment.second @ w.mT, rows.mT @ rows / rows.shape[1])
    torch.testing.assert_close((w @ moment.mean[:, :, None])[:, :, 0], rows.mean(1))
    some = moment_of(model, layer, batches, 7, lambda call: torch.Generator().manual_seed(call))
    assert some is not None
    assert not torch.equal(some.mean, moment.mean)
