"""2:4 and lowered convolutions against the dense ones; the kernel a code gets."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersenet.core.code import Code
from tersenet.core.errors import DataError, ModelError
from tersenet.forms import NM, Binary, Masked, Product, Shared, Uniform, decode
from tersenet.forms.nm import pack
from tersenet.forms.plain import encode_plain
from tersenet.runtime.engine import compile_linear
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.lowered import pack_lowered
from tersenet.runtime.kernels.semi_structured import pack_semi_structured, to_gpu


def two_of_four(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Bool [rows, columns] with none, one or two of each four."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1) < 2
    return (order & (torch.rand(rows, columns // 4, 4, generator=generator) < 0.9)).reshape(rows, columns)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 300),
    fours=st.integers(1, 12),
    batch=st.sampled_from([None, 0, 1, 7, 8, 16, 40, 70]),
    seed=st.integers(0, 9),
)
def test_two_of_four(rows: int, fours: int, batch: int | None, seed: int) -> None:
    mask = two_of_four(rows, 4 * fours, seed)
    weight = torch.randn(rows, 4 * fours, generator=torch.Generator().manual_seed(seed)) * mask
    shape = (4 * fours,) if batch is None else (batch, 4 * fours)
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    expected = x @ weight.numpy().T
    for source in (weight, pack(weight), NM(mask, 2, 4).encode(weight)):
        np.testing.assert_allclose(pack_semi_structured(source)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 40])
def test_threads_do_not_change_it(threads: int, batch: int) -> None:
    weight = torch.randn(1000, 400) * two_of_four(1000, 400, 0)
    x = np.random.default_rng(0).standard_normal((batch, 400)).astype(np.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = pack_semi_structured(weight)(x)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, x @ weight.numpy().T, rtol=1e-3, atol=1e-3)


def test_it_takes_half_the_values_and_a_bit_for_each_entry() -> None:
    kernel = pack_semi_structured(torch.randn(64, 128) * two_of_four(64, 128, 0))
    assert kernel.bytes == 64 * 128 * 4 // 2 + 64 * 128 // 8


def test_what_is_not_two_of_four_is_refused() -> None:
    with pytest.raises(ModelError, match="more than 2"):
        pack_semi_structured(torch.ones(4, 8))
    with pytest.raises(ModelError, match="not 1:4"):
        pack_semi_structured(pack(torch.zeros(4, 8), 1, 4))
    with pytest.raises(ModelError, match="no 2:4"):
        pack_semi_structured(Masked(torch.ones(4, 8)).encode(torch.ones(4, 8)))
    with pytest.raises(DataError, match=r"\[8\]"):
        pack_semi_structured(torch.zeros(4, 8))(np.zeros(4, np.float32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ModelError, match="GPU"):
        to_gpu(torch.zeros(64, 64, dtype=torch.float16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_the_product() -> None:
    weight = (torch.randn(128, 128) * two_of_four(128, 128, 0)).half()
    x = torch.randn(64, 128).half().cuda()
    torch.testing.assert_close(nn.functional.linear(x, to_gpu(weight)), x @ weight.cuda().T, rtol=1e-2, atol=1e-2)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The section of `benchmarks/kernels.py` that measures on a GPU."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("kernels_gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_leaves_a_missing_gpu_out_with_a_sentence(
    on_gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(on_gpu.semi_on_gpu(on_gpu.Effort(seconds=0.0, rounds=1))) == []
    assert capsys.readouterr().out == "gpu is left out: PyTorch sees no GPU\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_benchmark_measures_a_gpu(on_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "SHAPES", ((256, 512),))
    rows = list(on_gpu.semi_on_gpu(on_gpu.Effort(seconds=0.0, rounds=1)))
    assert [row.batch for row in rows] == list(on_gpu.BATCHES)
    assert all(set(row.ms) == {"ours", "dense torch"} and min(row.ms.values()) > 0 for row in rows)


def test_what_the_benchmark_multiplies_is_two_of_four(on_gpu: ModuleType) -> None:
    weight = on_gpu.two_of_four(64, 128)
    assert bool((weight.reshape(64, 32, 4).count_nonzero(2) == 2).all())
    x = np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32)
    np.testing.assert_allclose(pack_semi_structured(weight)(x), x @ weight.numpy().T, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(
    filters=st.integers(1, 9),
    channels=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch=st.sampled_from([0, 1, 3]),
    left=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 9),
)
def test_lowered_convolution(
    filters: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    batch: int,
    left: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((filters, channels, *kernel)).astype(np.float32)
    weight *= rng.random((filters, 1, 1, 1)) <= left
    weight *= rng.random((1, channels, *kernel)) <= left
    x = rng.standard_normal((batch, channels, 10, 11)).astype(np.float32)
    held = pack_lowered(weight, Geometry(kernel, stride, padding, dilation))
    expected = nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, padding, dilation)
    np.testing.assert_allclose(held(x), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert held.matrix.shape == (np.any(weight, (1, 2, 3)).sum(), np.any(weight, 0).sum())


@pytest.mark.parametrize("batch", [1, 7])
def test_threads_do_not_change_a_lowered_convolution(batch: int) -> None:
    weight, x = torch.randn(30, 8, 3, 3), torch.randn(batch, 8, 40, 40)
    weight[[0, 3, 29]] = 0
    kernel, before = pack_lowered(weight.numpy(), Geometry((3, 3))), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = kernel(x.numpy())
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, nn.functional.conv2d(x, weight).numpy(), rtol=1e-4, atol=1e-4)


def test_wrong_filters_and_images_are_refused() -> None:
    with pytest.raises(ModelError, match="four axes"):
        pack_lowered(np.zeros((3, 4), np.float32), Geometry((3, 3)))
    kernel = pack_lowered(np.ones((3, 4, 3, 3), np.float32), Geometry.of(nn.Conv2d(4, 3, 3)))
    with pytest.raises(DataError, match="images"):
        kernel(np.zeros((4, 8, 8), np.float32))


def linear_codes() -> list[tuple[str, Code]]:
    weight, mask = torch.randn(16, 24), two_of_four(16, 24, 0)
    return [
        ("SparseColumns", Shared(torch.randint(0, 5, (16, 24)), 4, zero=True).encode(torch.randn(4))),
        ("LookupMatrix", Shared(torch.randint(0, 4, (16, 24)), 4, zero=False).encode(torch.randn(4))),
        ("SparseColumns", Masked(mask).encode(weight)),
        ("SparseColumns", Uniform(torch.tensor([0.3]), torch.tensor([-8]), 16).encode(weight)),
        ("SemiStructured", NM(mask, 2, 4).encode(weight)),
        ("LookupMatrix", Product(torch.randint(0, 4, (6, 16)), 4, (16, 24), "inputs").encode(torch.randn(6, 4, 4))),
        ("BinMatrix", Product(torch.randint(0, 4, (4, 24)), 4, (16, 24), "outputs").encode(torch.randn(4, 4, 4))),
        ("LookupMatrix", Binary(weight.shape, scaled=True, axis=0).encode(weight)),
    ]


@pytest.mark.parametrize(("kind", "code"), linear_codes())
def test_each_form_has_its_kernel(kind: str, code: Code) -> None:
    kernel, x = compile_linear(code), np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    assert type(kernel).__name__ == kind and (kernel.rows, kernel.columns) == code.shape and kernel.bytes > 0
    np.testing.assert_allclose(kernel(x), x @ decode(code).numpy().T, rtol=1e-4, atol=1e-4)


def test_binary_with_signs_counts_bits() -> None:
    code = Binary(torch.Size([16, 24])).encode(torch.randn(16, 24))
    kernel, x = compile_linear(code, "signs"), np.sign(np.random.default_rng(0).standard_normal(24)).astype(np.float32)
    assert type(kernel).__name__ == "SignMatrix"
    assert np.array_equal(kernel(x), decode(code).numpy() @ x)


def test_forms_without_a_kernel_are_named() -> None:
    with pytest.raises(ModelError, match="no kernel computes with a weight of form"):
        compile_linear(encode_plain(torch.randn(4, 4)))
    with pytest.raises(ModelError, match="two axes"):
        compile_linear(Masked(torch.ones(2, 2, 3, 3)).encode(torch.ones(2, 2, 3, 3)))
