"""Payloads built by hand, each wrong in one way that no encoder could be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tersenet.coding import CodingError, decode, encode
from tersenet.coding.bits import BitWriter, zigzag
from tersenet.core.code import Symbols


def payload(*steps: Callable[[BitWriter], None], tail: bytes = b"") -> bytes:
    writer = BitWriter()
    for step in steps:
        step(writer)
    return writer.bytes() + tail


def number(value: int, width: int) -> Callable[[BitWriter], None]:
    return lambda writer: writer.number(value, width)


def numbers(*values: int) -> Callable[[BitWriter], None]:
    return lambda writer: writer.numbers(np.array(values))


def used(*gaps: int) -> list[Callable[[BitWriter], None]]:
    """A table of `len(gaps)` symbols that does not use all of its alphabet."""
    return [number(0, 1), numbers(len(gaps) - 1), numbers(*gaps)]


ALL_USED, FINEST = number(1, 1), number(0, 3)


def test_a_payload_built_like_this_is_valid_when_nothing_is_wrong() -> None:
    assert decode("ans_direct", payload(*used(4)), 3, 6).tolist() == [4, 4, 4]
    two = payload(ALL_USED, FINEST, numbers(0, 0))
    assert decode("ans_direct", two, 3, 2).tolist() == [0, 0, 0]
    gaps = payload(number(0, 4), numbers(2), *used(1), *used(3))
    assert decode("ans_gaps", gaps, 5, 6).tolist() == [0, 3, 0, 3, 0]


@pytest.mark.parametrize("coder", ["huffman_direct", "ans_direct", "range_direct"])
def test_tables_that_list_impossible_symbols(coder: str) -> None:
    with pytest.raises(CodingError, match="outside"):
        decode(coder, payload(*used(6)), 3, 6)
    with pytest.raises(CodingError, match="lists 4 of 6 symbols for a row of 3"):
        decode(coder, payload(*used(0, 0, 0, 0)), 3, 6)
    with pytest.raises(CodingError, match="lists 6 of 6"):
        decode(coder, payload(ALL_USED), 3, 6)
    with pytest.raises(CodingError, match="lists 2147483648 of"):
        decode(coder, payload(number(0, 1), numbers(2**31 - 1)), 3, 2**31)


@pytest.mark.parametrize("levels", [(1, 2), (-1, 0), (0, 249), (248, 248)])
def test_frequencies_that_no_encoder_writes(levels: tuple[int, int]) -> None:
    differences = zigzag(np.diff(levels, prepend=0)).tolist()
    with pytest.raises(CodingError, match="frequency"):
        decode("ans_direct", payload(ALL_USED, FINEST, numbers(*differences)), 3, 2)


def test_more_distances_than_the_row_has_places() -> None:
    with pytest.raises(CodingError, match="4000 distances for a row of 5"):
        decode("ans_gaps", payload(number(0, 4), numbers(4000), *used(0), *used(3)), 5, 6)


def test_a_last_distance_that_leads_just_beyond_the_row() -> None:
    valid = payload(number(0, 4), numbers(2), *used(1), *used(3))
    assert decode("ans_gaps", valid, 4, 6).tolist() == [0, 3, 0, 3]
    with pytest.raises(CodingError, match="beyond the 3 symbols"):
        decode("ans_gaps", valid, 3, 6)


def test_bits_after_a_table_and_after_a_stream() -> None:
    with pytest.raises(CodingError, match="not zero"):
        decode("ans_direct", payload(*used(4), number(1, 1)), 3, 6)
    values = np.array([1, 1, 1, 1, 0, 2], dtype=np.int32)
    encoded = encode(Symbols(values, 3), "huffman_direct").payload  # 8 bits of words
    assert decode("huffman_direct", encoded, 6, 3).tolist() == values.tolist()
    for wrong, length in ((encoded + b"\0", 6), (encoded, 5)):
        with pytest.raises(CodingError, match="holds more"):
            decode("huffman_direct", wrong, length, 3)


@pytest.mark.parametrize("coder", ["huffman_direct", "ans_direct", "range_direct"])
def test_a_lone_symbol_has_no_stream(coder: str) -> None:
    with pytest.raises(CodingError, match="holds more"):
        decode(coder, payload(*used(4), tail=b"\1\2\3\4\5\6\7\x08\x09"), 3, 6)
