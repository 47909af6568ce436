"""N:M as a form and as kernels read it."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.sparse._semi_structured_conversions import (
    _calculate_meta_reordering_scatter_offsets as offsets_of,
)
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass as reference,
)

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.forms import NM, decode
from tersenet.forms.nm import pack, unpack


def bits(tensor):
    return tensor.detach().reshape(-1).clone().view(torch.uint8).numpy().tobytes()


def two_of_four(rows, columns, seed=0, n=2, m=4):
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    order = noise.abs().view(-1, m).argsort(dim=1, descending=True)[:, :n]
    return noise * torch.zeros(len(order), m).scatter_(1, order, 1.0).view(rows, columns)


@st.composite
def masked_weights(draw):
    """Shape, axis and a mask of at most n in each m."""
    m = draw(st.integers(1, 8))
    n, axis = draw(st.integers(1, m)), draw(st.integers(0, 2))
    shape = [draw(st.integers(1, 3)) for _ in range(3)]
    shape[axis] *= m
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    moved = torch.rand([*(s for i, s in enumerate(shape) if i != axis), shape[axis]], generator=generator)
    rows = moved.view(-1, m)
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.argsort(1)[:, :n], True)
    mask &= torch.rand(rows.shape, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    mask = mask.view(moved.shape).movedim(-1, axis)
    return torch.randn(shape, generator=generator), mask, n, m, axis


@given(masked_weights(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_decodes_to_its_forward_with_n_values_for_each_group(sample, dtype):
    latent, mask, n, m, axis = sample
    form, latent = NM(mask, n, m, axis), latent.to(dtype)
    code = form.encode(latent)
    assert bits(decode(code)) == bits(form(latent)) == bits(torch.where(mask, latent, 0))
    assert len(code.streams["places"].values) == latent.numel() // m
    assert code.tables["values"].size == latent.numel() // m * n


def test_places_are_numbered_in_lexicographic_order():
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    weight = torch.zeros(6, 4)
    for row, pair in enumerate(pairs):
        weight[row, list(pair)] = torch.tensor([1.0, 2.0])
    code = NM(weight != 0, 2, 4).encode(weight)
    assert code.streams["places"].values.tolist() == [0, 1, 2, 3, 4, 5] and code.streams["places"].alphabet == 6
    assert code.tables["values"].tolist() == [1, 2] * 6


def test_a_mask_that_keeps_too_much_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="more than 2 of 4"):
        NM(torch.ones(2, 4, dtype=torch.bool), 2, 4)
    with pytest.raises(ValueError, match="does not fit an axis of 6"):
        NM(torch.zeros(2, 6, dtype=torch.bool), 2, 4)


GOOD = Code(
    "nm", (2, 4), {"places": Symbols(np.array([0, 5], np.int32), 6)}, {"values": np.ones(4, np.float32)},
    {"n": 2, "m": 4, "axis": 1},
)  # fmt: skip


def test_the_sample_itself_decodes():
    assert decode(GOOD).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (4, 2)},
        {"shape": (-2, -4)},
        {"shape": (1 << 62, 4)},
        {"shape": (4, 4)},
        {"shape": ()},
        {"options": {}},
        {"options": {"n": 0, "m": 4, "axis": 1}},
        {"options": {"n": 2, "m": 4, "axis": 2}},
        {"options": {"n": 2, "m": 4, "axis": -1}},
        {"options": {"n": 1 << 40, "m": 1 << 41, "axis": 1}},
        {"options": {"n": 1, "m": 4, "axis": 1}},
        {"options": {"n": 5, "m": 4, "axis": 1}},
        {"streams": {}},
        {"tables": {}},
        {"tables": {"values": np.ones(3, np.float32)}},
        {"streams": {"places": Symbols(np.array([0, 6], np.int32), 7)}},
        {"streams": {"places": Symbols(np.array([0], np.int32), 6)}},
    ],
    ids=str,
)
def test_contradictory_codes_are_refused(change):
    with pytest.raises(ArtifactError):
        decode(dataclasses.replace(GOOD, **change))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 8), st.data())
def test_packing_and_back(rows, groups, m, data):
    n = data.draw(st.integers(1, m))
    matrix = two_of_four(rows, groups * m, data.draw(st.integers(0, 99)), n, m)
    matrix = matrix * (torch.rand(matrix.shape) < 0.8)  # some groups keep fewer
    packed = pack(matrix, n, m)
    assert torch.equal(unpack(packed), matrix)
    assert packed.values.shape == (rows, groups * n)
    assert packed.indices.shape == (rows, -(-groups * n * max((m - 1).bit_length(), 1) // 8))


def test_packed_as_torch_packs_for_sparse_tensor_cores():
    """Its values, and its metadata before they are reordered for the hardware: int16 of four groups each."""
    matrix = two_of_four(32, 64).half()
    values, meta = reference(matrix)
    plain = meta.view(-1).gather(0, offsets_of(32, meta.shape[1], meta.dtype, matrix.device)).view(32, -1)
    packed = pack(matrix)
    assert torch.equal(packed.values, values)
    assert torch.equal(packed.indices.view(torch.int16), plain)
    assert packed.bytes == 32 * 32 * 2 + 32 * 8


def test_packing_refuses_what_is_no_two_of_four():
    with pytest.raises(ValueError, match="more than 2"):
        pack(torch.ones(1, 4))
    with pytest.raises(ValueError, match="no multiple of 4"):
        pack(torch.ones(1, 6))
