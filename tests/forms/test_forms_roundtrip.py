"""Codes give back exactly what the forward gave, and contradictory codes are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms import Dense, Masked, Shared, decode
from tersenet.forms.dense import encode_dense


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
floats = st.floats(width=32, allow_nan=False)
weights = hnp.arrays(np.float32, shapes, elements=floats).map(torch.from_numpy)


@given(weights)
def test_dense_keeps_every_bit(weight):
    code = Dense().encode(weight)
    assert bits(decode(code)) == bits(weight)


@given(st.data(), hnp.arrays(np.float32, shapes, elements=st.floats(-(2.0**99), 2.0**99, width=32)), st.booleans())
def test_masked_decodes_to_its_forward(data, array, splice):
    mask = torch.from_numpy(data.draw(hnp.arrays(np.bool_, array.shape)))
    form, latent = Masked(mask, splice), torch.from_numpy(array)
    weight = form(latent)
    assert bits(decode(form.encode(latent))) == bits(weight)
    assert torch.equal(weight, torch.where(mask, latent, 0))
    assert not torch.signbit(weight[~mask]).any(), "a pruned weight must be +0, since a file has one zero"


@given(st.data(), shapes, st.integers(1, 6), st.booleans(), st.booleans())
def test_shared_decodes_to_its_forward(data, shape, codes, zero, half):
    index = torch.from_numpy(data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, codes - 1 + zero))))
    codebook = torch.tensor(data.draw(st.lists(st.floats(-6e4, 6e4, width=32), min_size=codes, max_size=codes)))
    form = Shared(index, codes, zero=zero, precision="float16" if half else "float32")
    weight = form(codebook)
    table = codebook.half().float() if half else codebook
    expected = torch.cat([torch.zeros(1), table])[index] if zero else table[index]
    assert torch.equal(weight, expected)
    assert torch.equal(form.index, index.int())
    code = form.encode(codebook)
    assert bits(decode(code)) == bits(weight)
    assert code.tables["codebook"].dtype == (np.float16 if half else np.float32)


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64],
    ids=str,
)
def test_dense_holds_other_types(dtype):
    tensor = (torch.randn(3, 4) * 3).to(dtype)
    back = decode(Dense().encode(tensor))
    assert back.dtype == dtype and bits(back) == bits(tensor)


def test_bfloat16_weights_mask_and_share():
    latent = torch.randn(6, 7).bfloat16()
    masked = Masked(latent > 0)
    assert bits(decode(masked.encode(latent))) == bits(masked(latent))
    shared = Shared(torch.randint(0, 3, (6, 7)), 3, zero=False)
    codebook = shared.right_inverse(latent)
    assert codebook.dtype == torch.bfloat16
    assert bits(decode(shared.encode(codebook))) == bits(shared(codebook))


def test_a_scalar_and_an_empty_tensor():
    for tensor in (torch.tensor(7), torch.empty(0, 3)):
        assert torch.equal(decode(encode_dense(tensor)), tensor)


def test_small_precision_only_where_the_range_allows():
    fits, too_large, infinite = torch.tensor([1.0, 0.1]), torch.tensor([1.0, 1e5]), torch.tensor([1.0, -torch.inf])
    assert encode_dense(fits, torch.float16).tables["values"].dtype == np.float16
    assert torch.equal(decode(encode_dense(fits, torch.float16)), fits.half().float())
    assert torch.equal(decode(encode_dense(too_large, torch.float16)), too_large)
    assert torch.equal(decode(encode_dense(infinite, torch.float16)), infinite)
    assert encode_dense(infinite, torch.float16).tables["values"].dtype == np.float16
    assert torch.equal(decode(encode_dense(torch.tensor(3), torch.float16)), torch.tensor(3))


@pytest.mark.parametrize(
    "form", [Dense(), Masked(torch.ones(2, dtype=torch.bool)), Shared(torch.tensor([0, 1]), 2, zero=False)]
)
def test_nan_is_refused(form):
    with pytest.raises(ModelError, match="NaN"):
        form.encode(torch.tensor([1.0, torch.nan]))


def test_a_codebook_beyond_float16_is_refused():
    form = Shared(torch.tensor([0, 1]), 2, zero=False, precision="float16")
    with pytest.raises(ModelError, match="too large for float16"):
        form.encode(torch.tensor([1.0, 1e5]))


def test_codes_out_of_range_are_a_bug_of_the_caller():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        Shared(torch.tensor([0, 2]), 2, zero=False)


def symbols(*values: int, alphabet: int = 9, zero: bool = False) -> Symbols:
    return Symbols(np.array(values, np.int32), alphabet, zero)


DENSE = Code("dense", (2,), {}, {"values": np.zeros(2, np.float32)})
MASKED = Code("masked", (3,), {"mask": symbols(1, 0, 1)}, {"values": np.ones(2, np.float32)})
SHARED = Code("shared", (3,), {"index": symbols(1, 0, 2, zero=True)}, {"codebook": np.ones(2, np.float32)})


@pytest.mark.parametrize("code", [DENSE, MASKED, SHARED], ids=lambda code: code.form)
def test_the_samples_themselves_decode(code):
    assert decode(code).shape == code.shape


@pytest.mark.parametrize(
    "code",
    [
        dataclasses.replace(DENSE, form="wavelet"),
        dataclasses.replace(DENSE, dtype="float7"),
        dataclasses.replace(DENSE, dtype="int64"),
        dataclasses.replace(DENSE, shape=(3,)),
        dataclasses.replace(DENSE, shape=(-1, -2)),
        dataclasses.replace(DENSE, shape=(1 << 62, 1 << 62)),
        dataclasses.replace(DENSE, tables={}),
        dataclasses.replace(DENSE, tables={"values": np.zeros(3, np.float32)}, dtype="complex64"),
        dataclasses.replace(MASKED, streams={}),
        dataclasses.replace(MASKED, shape=(4,)),
        dataclasses.replace(MASKED, tables={"values": np.ones(3, np.float32)}),
        dataclasses.replace(SHARED, tables={"codebook": np.ones(1, np.float32)}),
        dataclasses.replace(SHARED, tables={"codebook": np.ones(0, np.float32)}),
        dataclasses.replace(SHARED, shape=(2, 2)),
        dataclasses.replace(SHARED, streams={"code": symbols(1)}),
    ],
)
def test_contradictory_codes_are_refused(code):
    with pytest.raises(ArtifactError):
        decode(code)
