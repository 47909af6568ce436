import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.coding.base import CodingError
from tersenet.coding.bits import BitReader, BitWriter, _golomb, golomb_bits, unzigzag, zigzag


def golomb_by_hand(value: int, order: int) -> str:
    """The textbook definition: value + 2^order in binary, after as many zeros as it has bits beyond order + 1."""
    binary = format(value + (1 << order), "b")
    return "0" * (len(binary) - order - 1) + binary


def test_code_words_are_those_of_the_definition() -> None:
    assert [golomb_by_hand(value, 0) for value in range(4)] == ["1", "010", "011", "00100"]
    for order in range(7):
        for value in range(300):
            bits = "".join(map(str, _golomb(np.array([value]), order)))
            assert bits == golomb_by_hand(value, order)


@given(st.lists(st.lists(st.integers(0, 2**31 - 65), max_size=50), max_size=4), st.integers(0, 7))
def test_blocks_come_back(blocks: list[list[int]], skew: int) -> None:
    writer = BitWriter()
    writer.number(0, skew)
    for block in blocks:
        before = writer.length
        writer.numbers(np.array(block, dtype=np.int64))
        assert writer.length - before == golomb_bits(np.array(block, dtype=np.int64))
    reader = BitReader(writer.bytes() + b"tail")
    assert reader.number(skew) == 0
    for block in blocks:
        assert reader.numbers(len(block)).tolist() == block
    assert reader.rest() == b"tail"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_the_best_order_is_taken(block: list[int]) -> None:
    shortest = min(sum(len(golomb_by_hand(value, order)) for value in block) for order in range(7))
    assert golomb_bits(np.array(block)) == 3 + (shortest if any(block) else 0)


def test_zigzag_interleaves_signs() -> None:
    assert zigzag(np.array([0, -1, 1, -2, 2])).tolist() == [0, 1, 2, 3, 4]
    values = np.arange(-50, 50)
    assert np.array_equal(unzigzag(zigzag(values)), values)


def test_the_end_of_the_data_is_an_error() -> None:
    for read in (lambda r: r.number(9), lambda r: r.numbers(40), lambda r: r.take(100)):
        with pytest.raises(CodingError, match="too early"):
            read(BitReader(b"\x1f"))


def test_bits_that_pad_must_be_zero() -> None:
    reader = BitReader(b"\x81x")
    reader.number(1)
    with pytest.raises(CodingError, match="not zero"):
        reader.rest()


def test_a_number_of_more_than_32_bits_is_an_error() -> None:
    with pytest.raises(CodingError, match="32 bits"):
        BitReader(b"\x00\x00\x00\x00\x00\x00\xff" * 9).numbers(1)
