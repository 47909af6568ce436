"""Plain tensors in their smallest exact code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.forms import decode
from tersenet.forms.plain import encode_plain


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


@given(
    hnp.arrays("float32", hnp.array_shapes(min_dims=1, max_dims=4), elements=st.floats(width=32, allow_nan=False))
    | hnp.arrays("float32", (8, 9), elements=st.sampled_from([0.0, -0.0, 1.0, 0.1, -3.5]))
)
def test_every_bit_comes_back(array: object) -> None:
    tensor = torch.from_numpy(array)
    assert torch.equal(bits(decode(encode_plain(tensor))), bits(tensor))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_takes_the_form_that_fits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 100, generator=generator)
    sparse = torch.where(torch.rand(200, 100, generator=generator) < 0.05, noise, 0.0)
    rounded = (noise * 2).round() / 2
    assert encode_plain(sparse.to(dtype)).form in (("masked",) if dtype.itemsize >= 4 else ("masked", "shared"))
    assert encode_plain(rounded.to(dtype)).form == "shared"
    assert encode_plain(torch.rand(200, 100, generator=generator)).form == "dense"
    for tensor in (noise, sparse, rounded):
        code = encode_plain(tensor.to(dtype))
        assert torch.equal(bits(decode(code)), bits(tensor.to(dtype)))


def test_a_codebook_that_fits_into_half_precision_is_stored_in_it() -> None:
    codes = torch.arange(10_000) % 5
    assert (
        encode_plain(torch.tensor([0.0, 0.5, -0.25, 1.0, 3.0])[codes].reshape(100, 100)).tables["codebook"].itemsize
        == 2
    )
    assert (
        encode_plain(torch.tensor([0.0, 0.1, -0.3, 1.0, 3.0])[codes].reshape(100, 100)).tables["codebook"].itemsize == 4
    )
