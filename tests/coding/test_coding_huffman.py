import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.coding import CodingError, decode, encode
from tersenet.coding.prefix import MAX_LENGTH, canonical, package_merge
from tersenet.core.code import Symbols

counts_lists = st.lists(st.integers(1, 10_000), min_size=2, max_size=80)


def huffman_bits(counts: list[int]) -> int:
    """Huffman's own construction: the total is the sum of all merged nodes' weights."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, merged)
        total += merged
    return total


@given(counts_lists)
def test_lengths_are_as_good_as_huffmans_tree(counts: list[int]) -> None:
    lengths = package_merge(np.array(counts), 40)
    assert int(lengths @ counts) == huffman_bits(counts)
    assert sum(2.0 ** -int(length) for length in lengths) == 1.0


def test_textbook_example() -> None:
    """Cormen, Leiserson, Rivest, Stein, 'Introduction to Algorithms', section 16.3: 224 bits."""
    assert package_merge(np.array([45, 13, 12, 16, 9, 5]), 20).tolist() == [1, 3, 3, 3, 4, 4]


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=2, max_size=6), st.integers(3, 5))
def test_limited_lengths_are_the_best_of_all(counts: list[int], limit: int) -> None:
    choices = itertools.product(range(1, limit + 1), repeat=len(counts))
    valid = (lengths for lengths in choices if sum(2.0**-length for length in lengths) <= 1)
    best = min(sum(c * length for c, length in zip(counts, lengths, strict=True)) for lengths in valid)
    lengths = package_merge(np.array(counts), limit)
    assert int(lengths.max()) <= limit
    assert int(lengths @ counts) == best


def test_fibonacci_counts_would_need_longer_words_than_are_allowed() -> None:
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    unlimited, limited = package_merge(np.array(counts), 45), package_merge(np.array(counts), MAX_LENGTH)
    assert unlimited.max() == 39
    assert limited.max() == MAX_LENGTH
    assert sum(2.0 ** -int(length) for length in limited) == 1.0


def test_code_words_are_those_of_rfc_1951() -> None:
    """RFC 1951, section 3.2.2: lengths (3, 3, 3, 3, 3, 2, 4, 4) for A … H."""
    lengths = np.array([3, 3, 3, 3, 3, 2, 4, 4])
    words = [format(code, f"0{n}b") for code, n in zip(canonical(lengths).codes.tolist(), lengths, strict=True)]
    assert words == ["010", "011", "100", "101", "110", "00", "1110", "1111"]


def test_the_stream_is_the_code_words_one_after_the_other() -> None:
    values = np.repeat(np.arange(6, dtype=np.int32), [45, 13, 12, 16, 9, 5])
    np.random.default_rng(0).shuffle(values)
    encoded = encode(Symbols(values, 6), "huffman_direct")
    words = ["0", "101", "100", "110", "1110", "1111"]  # canonical: b, c, d have 3 bits in symbol order
    words[1:4] = ["100", "101", "110"]
    digits = "".join(words[value] for value in values)
    assert len(digits) == 224
    assert encoded.payload[encoded.table_bytes :] == int(digits, 2).to_bytes(28, "big")


@pytest.mark.parametrize("alphabet", [2, 40, 3000])
def test_words_longer_than_the_quick_table_are_decoded(alphabet: int) -> None:
    counts = np.maximum(2e4 * 0.6 ** np.arange(alphabet), 1).astype(int)
    values = np.repeat(np.arange(alphabet, dtype=np.int32), counts)
    np.random.default_rng(1).shuffle(values)
    encoded = encode(Symbols(values, alphabet), "huffman_direct")
    assert len(encoded.payload) - encoded.table_bytes == (huffman_bits(counts.tolist()) + 7) // 8
    np.testing.assert_array_equal(decode(encoded.coder, encoded.payload, len(values), alphabet), values)


def test_a_lone_symbol_takes_no_stream() -> None:
    encoded = encode(Symbols(np.full(1000, 7, dtype=np.int32), 9), "huffman_direct")
    assert encoded.value_bytes == encoded.position_bytes == 0
    assert len(encoded.payload) <= 3


def test_a_code_that_is_not_complete_is_rejected() -> None:
    from tersenet.coding.bits import BitWriter, zigzag
    from tersenet.coding.static import write_used

    for lengths in ([1, 2, 3], [1, 1, 1], [2, 2, 2]):
        writer = BitWriter()
        write_used(writer, np.arange(3), 3)
        writer.numbers(zigzag(np.diff(lengths, prepend=2)))
        with pytest.raises(CodingError, match="complete prefix code"):
            decode("huffman_direct", writer.bytes() + b"\0\0", 10, 3)
