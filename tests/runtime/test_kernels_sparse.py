"""Sparse columns of codes: against the dense product, against EIE's own example, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.core.code import Code
from tersenet.core.errors import DataError, ModelError
from tersenet.forms import Binary, Masked, Shared, Uniform, decode
from tersenet.runtime.kernels.eie import SparseColumns, pack_columns
from tersenet.runtime.kernels.levels import Levels, levels_of


def levels(rows: int, columns: int, values: int, density: float, seed: int) -> Levels:
    rng = np.random.default_rng(seed)
    index = np.where(rng.random(rows * columns) < density, rng.integers(1, values, rows * columns), 0)
    return Levels(index, np.r_[0, rng.standard_normal(values - 1)].astype(np.float32), rows, columns)


def dense(held: Levels) -> np.ndarray:
    return held.book[held.index].reshape(held.rows, held.columns)


def inputs(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed + 1)
    return np.where(rng.random(shape) < density, rng.standard_normal(shape), 0).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(0, 60),
    values=st.sampled_from([2, 16, 17, 256]),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    active=st.sampled_from([0.0, 0.4, 1.0]),
    batch=st.sampled_from([None, 0, 1, 3]),
    seed=st.integers(0, 9),
)
def test_is_the_dense_product(
    rows: int, columns: int, values: int, density: float, active: float, batch: int | None, seed: int
) -> None:
    held = levels(rows, columns, values, density, seed)
    x = inputs((columns,) if batch is None else (batch, columns), active, seed)
    found = pack_columns(held)(x)
    assert found.shape == (*x.shape[:-1], rows) and found.dtype == np.float32
    np.testing.assert_allclose(found, x.astype(float) @ dense(held).T.astype(float), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_threads_do_not_change_the_product(threads: int, batch: int) -> None:
    held = levels(700, 900, 16, 0.3, 0)
    kernel, x = pack_columns(held), inputs((batch, 900), 0.9, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = kernel(x)
    finally:
        torch.set_num_threads(before)
    expected = x @ scipy.sparse.csr_matrix(dense(held)).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_words_are_those_of_the_paper() -> None:
    """EIE, §III.B: [0,0,1,2,0…(18 zeros),3] is stored as v = [1,2,0,3], z = [2,0,15,2]."""
    column = np.array([0, 0, 1, 2, *[0] * 18, 3])
    kernel = pack_columns(Levels(column, np.arange(16, dtype=np.float32), len(column), 1))
    assert kernel.words.dtype == np.uint8
    assert (kernel.words & 15).tolist() == [1, 2, 0, 3]
    assert (kernel.words >> 4).tolist() == [2, 0, 15, 2]
    assert kernel.starts.tolist() == [0, 4]


def test_longer_codes_have_longer_words() -> None:
    held = levels(2000, 3, 256, 0.002, 1)
    kernel = pack_columns(held)
    assert kernel.words.dtype == np.uint16 and kernel.bits == 8
    assert (kernel.words & 255 == 0).any(), "gaps of more than 255 zeros need words between"
    assert np.allclose(kernel(np.ones(3, np.float32)), dense(held).sum(1), atol=1e-5)


def test_columns_of_zero_inputs_are_not_read() -> None:
    held = levels(50, 10, 16, 0.5, 2)
    kernel = pack_columns(held)
    x = np.zeros(10, np.float32)
    x[3] = 2.0
    spoiled = kernel.words.copy()
    spoiled[: kernel.starts[3]] = spoiled[kernel.starts[4] :] = 0xFF  # would write outside of the sums
    lazy = SparseColumns(spoiled, kernel.starts, kernel.book, kernel.bits, kernel.rows)
    assert np.array_equal(lazy(x), kernel(x))


def codes() -> list[tuple[str, Code]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 20, generator=generator)
    mask = torch.rand(24, 20, generator=generator) < 0.4
    index = torch.randint(0, 7, (24, 20), generator=generator)
    rounded = torch.round(weight * 3) / 3
    forms = {
        "shared with zeros": (Shared(index, 6, zero=True), torch.randn(6, generator=generator)),
        "shared without": (Shared(index, 7, zero=False), torch.randn(7, generator=generator)),
        "masked": (Masked(mask), rounded),
        "binary": (Binary(weight.shape), weight),
        "binary, a scale for each row": (Binary(weight.shape, scaled=True, axis=0), weight),
        "binary with zeros": (Binary(weight.shape, support=mask, scaled=True), weight),
        "uniform": (Uniform(torch.tensor([0.2]), torch.tensor([-8]), 16), weight),
        "uniform, a step for each row": (
            Uniform(torch.rand(24, generator=generator) + 0.1, torch.full((24,), -8), 16, axis=0),
            weight,
        ),
    }
    return [(name, form.encode(latent.contiguous())) for name, (form, latent) in forms.items()]


@pytest.mark.parametrize(("name", "code"), codes())
def test_forms_are_packed_from_their_codes(name: str, code: Code) -> None:
    x = inputs((3, 20), 0.6, 0)
    expected = x @ decode(code).numpy().T
    np.testing.assert_allclose(pack_columns(code)(x), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_weights_without_a_book_are_refused() -> None:
    weight = torch.randn(40, 40)
    with pytest.raises(ModelError, match="1601 values"):
        pack_columns(Masked(torch.ones(40, 40)).encode(weight))
    with pytest.raises(ModelError, match="scales along its inputs"):
        levels_of(Binary(weight.shape, scaled=True, axis=1).encode(weight))


@pytest.mark.parametrize("x", [np.zeros(9, np.float32), np.zeros((2, 2, 10), np.float32), np.zeros(10)])
def test_wrong_inputs_are_refused(x: np.ndarray) -> None:
    kernel = pack_columns(levels(4, 10, 16, 0.5, 0))
    with pytest.raises(DataError, match=r"\[10\]|float32"):
        kernel(x)
