"""Interleaved rANS: a decoder of a few lines, written from the format's page, reads the same; nothing else passes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.coding.base import CodingError
from tersenet.coding.lanes import decode_bytes, encode_bytes

STATES = 8


def parts(payload: bytes) -> tuple[list[int], list[int], list[int], list[int]]:
    """Symbols, frequencies, states and words of a payload of one chunk."""
    m = payload[4] + 1
    frequencies = [f + 1 for f in struct.unpack_from(f"<{m}H", payload, 5 + m)]
    states = struct.unpack_from("<8I", payload, 5 + 3 * m)
    rest = payload[5 + 3 * m + 32 :]
    return list(payload[5 : 5 + m]), frequencies, list(states), list(struct.unpack(f"<{len(rest) // 2}H", rest))


def payload_of(symbols: list[int], frequencies: list[int], states: list[int], words: list[int]) -> bytes:
    table = bytes([len(symbols) - 1, *symbols]) + struct.pack(f"<{len(symbols)}H", *(f - 1 for f in frequencies))
    chunk = table + struct.pack("<8I", *states) + struct.pack(f"<{len(words)}H", *words)
    return struct.pack("<I", len(chunk)) + chunk


def plainly(payload: bytes, length: int) -> list[int]:
    symbols, frequencies, states, words = parts(payload)
    slots = [(s, f, q) for s, f in zip(symbols, frequencies, strict=True) for q in range(f)]
    found, place = [], 0
    for i in range(length):
        x = states[i % STATES]
        symbol, f, within = slots[x % 4096]
        x = f * (x // 4096) + within
        if x < 1 << 16:
            x, place = x << 16 | words[place], place + 1
        states[i % STATES] = x
        found.append(symbol)
    assert place == len(words) and states == [1 << 16] * STATES
    return found


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 255), min_size=1, max_size=300), st.integers(1, 40))
def test_a_decoder_of_a_few_lines_reads_the_same(values: list[int], times: int) -> None:
    given_ = np.array(values * times, np.uint8)
    payload, _ = encode_bytes(given_)
    assert plainly(payload, len(given_)) == given_.tolist() == decode_bytes(payload, len(given_)).tolist()


VALUES = np.random.default_rng(0).choice(np.array([3, 5, 9], np.uint8), 5000, p=[0.7, 0.2, 0.1])


def changed(what: str) -> bytes:
    symbols, frequencies, states, words = parts(encode_bytes(VALUES)[0])
    if what == "symbol twice":
        symbols[1] = symbols[0]
    elif what == "symbols descend":
        symbols.reverse()
    elif what == "too little":
        frequencies[0] -= 1
    elif what == "too much":
        frequencies[0] += 1
    elif what == "far too much":
        frequencies[2] = 1 << 16
    elif what == "a word more":
        words.append(0)
    elif what == "a word less":
        words.pop()
    elif what == "another last word":
        words[-1] ^= 1 << 7  # the number of words stays right, only the last state is another
    elif what == "no words":
        words.clear()
    elif what == "another state":
        states[4] ^= 1 << 30
    elif what == "a low state":
        states[4] = (1 << 16) - 1
    return payload_of(symbols, frequencies, states, words)


def test_what_is_put_together_again_is_what_was_taken_apart() -> None:
    assert changed("nothing") == encode_bytes(VALUES)[0]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("symbol twice", "no table"),
        ("symbols descend", "no table"),
        ("too little", "no table"),
        ("too much", "no table"),
        ("far too much", "no table"),
        ("a word more", "more or less"),
        ("a word less", "more or less"),
        ("another last word", "more or less"),
        ("no words", "more or less"),
        ("another state", "more or less"),
        ("a low state", "more or less"),
    ],
)
def test_what_no_encoder_writes_is_refused(what: str, message: str) -> None:
    with pytest.raises(CodingError, match=message):
        decode_bytes(changed(what), len(VALUES))


def test_symbols_beyond_the_alphabet_are_refused() -> None:
    payload, _ = encode_bytes(VALUES)
    assert len(decode_bytes(payload, len(VALUES), 10)) == len(VALUES)
    with pytest.raises(CodingError, match="no table"):
        decode_bytes(payload, len(VALUES), 9)
