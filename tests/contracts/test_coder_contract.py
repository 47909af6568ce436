"""What every registered coder promises, checked on whatever is in the registry."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.coding import CODERS, CodingError, coder_id, coder_name, decode, encode
from tersenet.coding.base import Plan
from tersenet.core.code import Symbols

NAMES = list(CODERS)
WIDEST = {"lanes": 256}
"""The largest alphabet that a coder takes; others take all of those drawn here."""

SPARSE = ("huffman_gaps", "ans_gaps", "range_gaps")
"""Coders of rows that are zero for the most part, and not throughout."""

KINDS = ("uniform", "skewed", "sparse", "clustered", "same", "ascending")


def draw(kind: str, length: int, alphabet: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "same":
        values = np.full(length, rng.integers(alphabet))
    elif kind == "ascending":
        values = np.arange(length) % alphabet
    elif kind == "skewed":
        values = np.minimum(rng.geometric(0.3, length) - 1, alphabet - 1)
    else:
        values = rng.integers(alphabet, size=length)
    if kind == "sparse":
        values[rng.random(length) < 0.93] = 0
    if kind == "clustered":
        values[np.repeat(rng.random(length // 50 + 1) < 0.8, 50)[:length]] = 0
    return values.astype(np.int32)


alphabets = st.one_of(st.integers(1, 9), st.integers(10, 300), st.integers(301, 70_000))
lengths = st.one_of(st.integers(0, 5), st.integers(6, 3_000))
symbol_rows = st.builds(
    lambda kind, length, alphabet, seed, zero: Symbols(draw(kind, length, alphabet, seed), alphabet, zero),
    st.sampled_from(KINDS), lengths, alphabets, st.integers(0, 2**32), st.booleans(),
)  # fmt: skip


def able(name: str, symbols: Symbols) -> bool:
    """Whether the coder must take these symbols; others it must refuse."""
    nonzero = np.count_nonzero(symbols.values)
    if name in SPARSE and len(symbols.values):
        return symbols.zero and 0 < nonzero <= len(symbols.values) / 2
    return symbols.alphabet <= WIDEST.get(name, symbols.alphabet)


def planned(name: str, symbols: Symbols) -> Plan | None:
    plan = CODERS[name].plan(symbols)
    assert (plan is not None) == able(name, symbols)
    return plan


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(symbols=symbol_rows)
def test_what_goes_in_comes_out(name: str, symbols: Symbols) -> None:
    plan = planned(name, symbols)
    if plan is None:
        return
    encoded = plan.write()
    decoded = decode(name, encoded.payload, len(symbols.values), symbols.alphabet)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols.values)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(symbols=symbol_rows)
def test_every_byte_is_accounted_for(name: str, symbols: Symbols) -> None:
    plan = planned(name, symbols)
    if plan is None:
        return
    encoded = plan.write()
    parts = (encoded.table_bytes, encoded.position_bytes, encoded.value_bytes)
    assert encoded.coder == name
    assert min(parts) >= 0
    assert sum(parts) == len(encoded.payload) >= plan.least
    assert plan.write() == encoded, "the same symbols must give the same bytes"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(symbols=symbol_rows, data=st.data())
def test_an_altered_payload_gives_symbols_in_range_or_a_coding_error(name: str, symbols: Symbols, data) -> None:
    plan = planned(name, symbols)
    payload = alter(plan.write().payload if plan else b"", data)
    survives(name, payload, len(symbols.values), symbols.alphabet)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(payload=st.binary(max_size=200), length=lengths, alphabet=alphabets)
def test_any_bytes_give_symbols_in_range_or_a_coding_error(name: str, payload: bytes, length: int, alphabet: int):
    survives(name, payload, length, alphabet)


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_rejected_or_harmless(name: str) -> None:
    symbols = Symbols(draw("sparse", 700, 17, 5), 17, zero=True)
    payload = CODERS[name].plan(symbols).write().payload
    for end in range(len(payload)):
        survives(name, payload[:end], 700, 17)


@pytest.mark.parametrize("name", NAMES)
def test_memory_stays_in_proportion_whatever_the_payload_says(name: str) -> None:
    rng = np.random.default_rng(0)
    survives(name, b"\xff" * 30, 1000, 300)  # imports happen here
    for alphabet in (3, 2**31):
        for _ in range(150):
            payload = (rng.integers(256, size=60) * (rng.random(60) < rng.random())).astype(np.uint8).tobytes()
            tracemalloc.start()
            survives(name, payload, 1000, alphabet)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 400_000  # bytes, for 1000 symbols


@pytest.mark.parametrize("name", NAMES)
def test_an_impossible_row_is_rejected(name: str) -> None:
    for length, alphabet in ((-1, 4), (5, 0), (5, -1), (5, 2**31 + 1)):
        with pytest.raises(CodingError):
            decode(name, b"\0\0\0\0", length, alphabet)
    with pytest.raises(CodingError):
        decode(name, b"\1", 0, 4)
    assert len(decode(name, b"", 0, 0)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alphabet", [1, 2, 17, 5000])
def test_auto_and_families_take_the_smallest(kind: str, alphabet: int) -> None:
    symbols = Symbols(draw(kind, 2000, alphabet, 1), alphabet, zero=True)
    sizes = {name: len(plan.write().payload) for name in NAMES if (plan := planned(name, symbols))}
    assert len(encode(symbols, "best").payload) == min(sizes.values())
    assert len(encode(symbols).payload) == min(size for name, size in sizes.items() if not CODERS[name].thorough)
    for family in {CODERS[name].family for name in NAMES}:
        members = {name: size for name, size in sizes.items() if CODERS[name].family == family}
        encoded = encode(symbols, family)
        assert encoded.coder in (members or ["raw"])  # raw stands in only where nobody of the family can code
        assert len(encoded.payload) == min(members.values() if members else [sizes["raw"]])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw"])
def test_every_coder_but_raw_makes_sparse_symbols_small(name: str) -> None:
    symbols = Symbols(draw("sparse", 20_000, 17, 1), 17, zero=True)
    encoded = encode(symbols, name)
    assert encoded.coder == name
    assert len(encoded.payload) < len(encode(symbols, "raw").payload) / 3


def test_numbers_name_coders_and_never_change() -> None:
    frozen = {
        "raw": 0, "huffman_direct": 1, "huffman_gaps": 2, "ans_direct": 3, "ans_gaps": 4, "range_direct": 5,
        "range_gaps": 6, "mix": 7, "lanes": 8,
    }  # fmt: skip
    assert {name: coder_id(name) for name in frozen} == frozen
    assert [coder_name(coder_id(name)) for name in NAMES] == NAMES
    assert len({coder_id(name) for name in NAMES}) == len(NAMES)


def alter(payload: bytes, data) -> bytes:
    how = data.draw(st.sampled_from(["flip", "cut", "extend", "overwrite", "head"]))
    changed = bytearray(payload)
    if how == "cut":
        return payload[: data.draw(st.integers(0, len(payload)))]
    if how == "extend" or not payload:
        return payload + data.draw(st.binary(min_size=1, max_size=9))
    bound = min(8, len(payload)) if how == "head" else len(payload)
    for _ in range(1 if how == "flip" else 4):
        place = data.draw(st.integers(0, bound - 1))
        changed[place] = changed[place] ^ (1 << data.draw(st.integers(0, 7))) if how == "flip" else data.draw(
            st.integers(0, 255)
        )  # fmt: skip
    return bytes(changed)


def survives(name: str, payload: bytes, length: int, alphabet: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an overflow on the way would be a warning, not an error
        try:
            values = decode(name, payload, length, alphabet)
        except CodingError:
            return
    assert values.dtype == np.int32
    assert values.shape == (length,)
    assert not length or 0 <= values.min() <= values.max() < alphabet
