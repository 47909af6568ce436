"""Looked-up partial sums: against the dense product, for every way of cutting a weight into pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.core.errors import DataError, ModelError
from tersenet.forms import Product, Shared, decode
from tersenet.runtime.kernels.levels import Levels
from tersenet.runtime.kernels.lookup import LookupMatrix, pack_lookup, pack_product, pack_sign_lookup


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 40),
    values=st.sampled_from([1, 2, 3, 16, 17, 255]),
    zeros=st.booleans(),
    batch=st.sampled_from([None, 0, 1, 7, 8, 16, 37]),
    seed=st.integers(0, 9),
)
def test_few_values(rows: int, columns: int, values: int, zeros: bool, batch: int | None, seed: int) -> None:
    index = np.random.default_rng(seed).integers(0 if zeros else 1, values + 1, rows * columns)
    held = Levels(index, np.r_[np.float32(0), normal((values,), seed)], rows, columns)
    x = normal((columns,) if batch is None else (batch, columns), seed)
    found = pack_lookup(held)(x)
    assert found.shape == (*x.shape[:-1], rows)
    expected = x.astype(float) @ held.book[index].reshape(rows, columns).T.astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def product(shape: tuple[int, ...], groups: int, vectors: int, k: int, d: int, layout: str) -> Product | tuple:
    generator = torch.Generator().manual_seed(k)
    index = torch.randint(0, k, (groups, vectors), generator=generator)
    return Product(index, k, shape, layout), torch.randn(groups, k, d, generator=generator)


@pytest.mark.parametrize("batch", [None, 1, 5, 8, 33])
@pytest.mark.parametrize(
    ("shape", "groups", "vectors", "k", "d", "layout"),
    [
        ((30, 24), 6, 30, 16, 4, "inputs"),
        ((30, 24), 1, 30, 7, 24, "inputs"),
        ((30, 35), 7, 30, 300, 5, "inputs"),
        ((30, 24), 5, 24, 16, 6, "outputs"),
        ((30, 24), 30, 24, 3, 1, "outputs"),
        ((20, 6, 3, 3), 1, 120, 12, 9, "kernels"),
        ((20, 6, 1, 1), 1, 120, 12, 1, "kernels"),
    ],
)
def test_products(
    shape: tuple[int, ...], groups: int, vectors: int, k: int, d: int, layout: str, batch: int | None
) -> None:
    form, latent = product(shape, groups, vectors, k, d, layout)
    code = form.encode(latent)
    matrix = decode(code).reshape(shape[0], -1).numpy()
    x = normal((matrix.shape[1],) if batch is None else (batch, matrix.shape[1]), 0)
    x[..., ::3] = 0
    kernel = pack_product(code)
    np.testing.assert_allclose(kernel(x), x @ matrix.T, rtol=1e-4, atol=1e-4)
    assert (kernel.rows, kernel.columns) == matrix.shape


def test_signs_are_looked_up_by_the_byte() -> None:
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (40, 61))
    kernel = pack_sign_lookup(signs)
    assert kernel.index.shape == (8, 40) and kernel.index.dtype == np.uint8 and kernel.books.shape == (1, 256, 8)
    for batch in (1, 20):
        x = normal((batch, 61), 1)
        np.testing.assert_allclose(kernel(x), x @ signs.T, rtol=1e-4, atol=1e-4)


def test_sixteen_values_are_looked_up_in_pairs() -> None:
    index = torch.randint(0, 16, (50, 33))
    code = Shared(index, 16, zero=False).encode(torch.randn(16))
    kernel = pack_lookup(code)
    assert kernel.books.shape == (1, 256, 2) and kernel.index.shape == (17, 50)
    x = normal((4, 33), 0)
    np.testing.assert_allclose(kernel(x), x @ decode(code).numpy().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 50])
def test_threads_do_not_change_it(threads: int, batch: int) -> None:
    kernel = LookupMatrix(
        np.random.default_rng(0).integers(0, 16, (100, 900)).astype(np.uint8), normal((1, 16, 4), 0), 400
    )
    x = normal((batch, 400), 1)
    weight = kernel.books[0][kernel.index].transpose(1, 0, 2).reshape(900, 400)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = kernel(x)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, x @ weight.T, rtol=1e-4, atol=1e-3)


def test_wrong_weights_and_inputs_are_refused() -> None:
    masked = Product(torch.zeros(2, 4), 3, (4, 6), "inputs", support=torch.rand(4, 6) < 0.5)
    with pytest.raises(ModelError, match="with zeros"):
        pack_product(masked.encode(torch.randn(2, 3, 3)))
    form, latent = product((4, 6), 2, 4, 3, 3, "inputs")
    with pytest.raises(DataError, match=r"\[6\]"):
        pack_product(form.encode(latent))(np.zeros(7, np.float32))
    with pytest.raises(ModelError, match="other entries"):
        pack_sign_lookup(np.zeros((2, 2)))
