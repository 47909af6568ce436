import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.coding import CODERS, CodingError, decode, encode
from tersenet.coding.gaps import GAPS, relative_index
from tersenet.core.code import Symbols


def test_figure_2_of_deep_compression() -> None:
    """Nonzero weights at 1, 4 and 15; with 3 bits the distance 11 becomes 8 and a padding zero, then 3."""
    values = np.zeros(16, dtype=np.int32)
    values[[0, 3, 14]] = [34, 9, 17]
    distances, symbols = relative_index(values, width=3)
    assert (distances + 1).tolist() == [1, 3, 8, 3]
    assert symbols.tolist() == [34, 9, 0, 17]


@given(st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]), max_size=300), st.integers(1, 6))
def test_padding_agrees_with_the_paper_taken_literally(values: list[int], width: int) -> None:
    expected, previous = [], -1
    for position, value in enumerate(values):
        if value:
            while position - previous > 1 << width:
                expected.append((1 << width, 0))
                previous += 1 << width
            expected.append((position - previous, value))
            previous = position
    distances, symbols = relative_index(np.array(values, dtype=np.int32), width)
    assert list(zip((distances + 1).tolist(), symbols.tolist(), strict=True)) == expected
    if expected:
        joined = GAPS.join([distances, symbols], len(values), 3)
        assert joined.tolist() == values


@given(st.lists(st.sampled_from([0] * 9 + [1, 2, 3]), min_size=10, max_size=400))
def test_rows_are_priced_for_what_they_contain(values: list[int]) -> None:
    symbols = Symbols(np.array(values, dtype=np.int32), 4, zero=True)
    for arrangement in GAPS.arrangements(symbols):
        for row, found in zip(arrangement.rows(), arrangement.histograms, strict=True):
            used, counts = np.unique(row, return_counts=True)
            assert used.tolist() == found.used.tolist()
            assert counts.tolist() == found.counts.tolist()


@pytest.mark.parametrize("family", ["huffman", "ans", "range"])
def test_clustered_zeros_are_cheaper_as_gaps(family: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9, size=40_000).astype(np.int32)
    values[np.repeat(rng.random(400) < 0.9, 100)] = 0
    symbols = Symbols(values, 9, zero=True)
    encoded = encode(symbols, family)
    assert encoded.coder == f"{family}_gaps"
    assert len(encoded.payload) < 0.8 * len(encode(symbols, f"{family}_direct").payload)
    assert encoded.value_bytes == pytest.approx(np.count_nonzero(values) * 3 / 8, rel=0.03)


@pytest.mark.parametrize("family", ["huffman", "ans"])
def test_the_width_with_the_fewest_bytes_is_taken(family: str) -> None:
    values = np.zeros(3000, dtype=np.int32)
    values[np.random.default_rng(3).choice(3000, 150, replace=False)] = 1
    coder = CODERS[f"{family}_gaps"]
    symbols = Symbols(values, 2, zero=True)
    chosen = len(coder.plan(symbols).write().payload)

    sizes = []
    for arrangement in GAPS.arrangements(symbols):
        models = [coder.code.fit(found) for found in arrangement.histograms]
        sizes.append(sum(m.bits(h.counts) for m, h in zip(models, arrangement.histograms, strict=True)) / 8)
    assert len(sizes) > 5
    assert chosen < min(sizes) + 40
    assert max(sizes) > 1.5 * min(sizes)


def test_distances_that_lead_beyond_the_row_are_rejected() -> None:
    values = np.zeros(500, dtype=np.int32)
    values[::25] = 1
    payload = encode(Symbols(values, 2, zero=True), "huffman_gaps").payload
    with pytest.raises(CodingError, match="beyond"):
        decode("huffman_gaps", payload, 400, 2)


def test_gaps_are_not_tried_where_zero_means_nothing() -> None:
    symbols = Symbols(np.eye(30, dtype=np.int32).ravel(), 2, zero=False)
    assert CODERS["ans_gaps"].plan(symbols) is None
    assert encode(symbols, "ans").position_bytes == 0
