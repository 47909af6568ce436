"""Signs times signs: exactly the dense product, and a whole network exactly torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersenet.core.errors import DataError, ModelError
from tersenet.forms import Binary, decode
from tersenet.models.bnn import NormedMLP, Sign
from tersenet.runtime.binary_net import compile_binary
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.xnor import pack_bits, pack_signs
from tersenet.runtime.kernels.xnor_conv import pack_sign_filters


def signs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), shape)


def real(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """With zeros of both signs, which count as +1."""
    found = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found[np.abs(found) < 0.1] = 0.0
    return np.where(np.abs(found) < 0.2, -0.0 * found, found).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 200), columns=st.integers(1, 700), batch=st.sampled_from([0, 1, 2, 9]), seed=st.integers(0, 9)
)
def test_linear_is_exactly_the_dense_product(rows: int, columns: int, batch: int, seed: int) -> None:
    weight, x = signs((rows, columns), seed), real((batch, columns), seed)
    expected = np.where(x >= 0, 1, -1).astype(np.int64) @ weight.astype(np.int64).T
    assert np.array_equal(pack_signs(weight)(x), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 30])
def test_threads_do_not_change_it(threads: int, batch: int) -> None:
    weight, x = signs((1000, 4000), 0), signs((batch, 4000), 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = pack_signs(weight)(x)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found, x @ weight.T)


def test_bits_are_packed_from_the_lowest() -> None:
    x = -np.ones((1, 66), np.float32)
    x[0, [0, 5, 65]] = 1
    assert pack_bits(x).tolist() == [[1 + 32, 2]]


@settings(max_examples=40, deadline=None)
@given(
    filters=st.integers(1, 70),
    channels=st.sampled_from([1, 3, 63, 64, 65, 130]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch=st.sampled_from([0, 1, 3]),
)
def test_convolution_is_exactly_the_dense_one(
    filters: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    batch: int,
) -> None:
    weight, x = signs((filters, channels, *kernel), 3), real((batch, channels, 6, 7), 4)
    held = pack_sign_filters(weight, Geometry(kernel, stride, padding, dilation))
    signed = torch.from_numpy(np.where(x >= 0, 1.0, -1.0).astype(np.float32))
    expected = nn.functional.conv2d(signed, torch.from_numpy(weight), None, stride, padding, dilation)
    assert np.array_equal(held(x), expected.numpy())


@pytest.mark.parametrize("axis", [None, 0])
def test_scales_multiply(axis: int | None) -> None:
    code = Binary(torch.Size([30, 70]), scaled=True, axis=axis).encode(torch.randn(30, 70))
    x = signs((4, 70), 0)
    np.testing.assert_allclose(pack_signs(code)(x), x @ decode(code).numpy().T, rtol=1e-5, atol=1e-5)
    filters = Binary(torch.Size([5, 7, 3, 3]), scaled=True, axis=axis).encode(torch.randn(5, 7, 3, 3))
    images = signs((2, 7, 5, 5), 0)
    expected = nn.functional.conv2d(torch.from_numpy(images), decode(filters), padding=1)
    found = pack_sign_filters(filters, Geometry((3, 3), padding=(1, 1)))(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def network(hidden: tuple[int, ...], seed: int, inputs: int = 50) -> nn.Module:
    """±1 weights, norms with γ of both signs and zero, some of whose thresholds are beyond all sums."""
    torch.manual_seed(seed)
    model = NormedMLP(inputs, hidden, 10, Sign, dropout=0.1).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = torch.where(torch.randn_like(module.weight) >= 0, 1.0, -1.0)
        if isinstance(module, nn.BatchNorm1d):
            width = module.num_features
            module.weight.data = torch.randn(width) * (torch.rand(width) > 0.1)
            module.bias.data = torch.randn(width)
            module.running_mean = torch.randn(width) * 5 + 200 * (torch.rand(width) > 0.95)
            module.running_var = torch.rand(width) * 50
    return model


@pytest.mark.parametrize("batch", [1, 2, 33])
@pytest.mark.parametrize("hidden", [(64,), (100, 65), (200, 130, 70)])
def test_a_whole_network_is_exactly_torchs(hidden: tuple[int, ...], batch: int) -> None:
    model = network(hidden, len(hidden))
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 1, 5, 10))
    x = (pixels / 256).astype(np.float32)  # sums of which are exact in float32, in any order
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert np.array_equal(compile_binary(model)(x), expected)


def test_thresholds_are_the_norms_own_at_every_sum() -> None:
    """Every sum a row can have, through the norm and through the folded limit."""
    model = network((40, 300), 5, inputs=40)
    compiled = compile_binary(model)
    matrix, limits = compiled.hidden[0]
    norm = model.get_submodule("norm2")
    sums = torch.arange(-40, 41, 2).float()[:, None].expand(-1, 300)
    with torch.no_grad():
        fires = norm(sums) >= 0
    flipped = norm.weight < 0
    differ = torch.where(flipped, (40 + sums) / 2, (40 - sums) / 2)
    assert torch.equal(fires, differ <= torch.from_numpy(limits))
    assert matrix.rows == 300 and bool(fires.any()) and not bool(fires.all())


def test_wrong_weights_inputs_and_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="other entries"):
        pack_signs(np.zeros((3, 4), np.float32))
    with pytest.raises(ModelError, match="zeros"):
        pack_signs(Binary(torch.Size([4, 4]), support=torch.eye(4, dtype=torch.bool)).encode(torch.ones(4, 4)))
    with pytest.raises(DataError, match=r"\[4\]"):
        pack_signs(signs((3, 4), 0))(np.zeros(5, np.float32))
    kernel = pack_sign_filters(signs((3, 4, 3, 3), 0), Geometry((3, 3)))
    with pytest.raises(DataError, match="images"):
        kernel(np.zeros((1, 5, 6, 6), np.float32))
    with pytest.raises(DataError, match="smaller than the kernel"):
        kernel(np.zeros((1, 4, 2, 6), np.float32))
    with pytest.raises(ModelError, match="other entries"):
        compile_binary(NormedMLP(10, (20,), 3, Sign))
    with pytest.raises(ModelError, match="signs between"):
        compile_binary(NormedMLP(10, (20,), 3, nn.ReLU))
    with pytest.raises(ModelError, match="one group"):
        Geometry.of(nn.Conv2d(4, 4, 3, groups=2))
