import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.coding import CodingError, decode, encode, entropy_bytes
from tersenet.coding.ans import ANS
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.frequency import _EIGHTHS, Frequencies, _at_step, fit, read
from tersenet.coding.histogram import from_counts, histogram
from tersenet.core.code import Symbols


def pruned(n: int, density: float, values: int, seed: int = 0) -> Symbols:
    rng = np.random.default_rng(seed)
    out = np.clip(np.rint(rng.normal(values / 2, values / 6, n)), 1, values).astype(np.int32)
    out[rng.random(n) >= density] = 0
    return Symbols(out, values + 1, zero=True)


def reference_decode(stream: bytes, frequencies: list[int], length: int) -> list[int]:
    """Streaming ANS with Python's own integers (Duda 2013): a 64-bit state, 32-bit words, 24-bit frequencies."""
    padded = stream + bytes(-len(stream) % 4)
    words = [int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), 4)]
    starts = np.cumsum([0, *frequencies]).tolist()
    state, symbols = 0, []
    for _ in range(2):
        state = state << 32 | words.pop() if words else state
    for _ in range(length):
        slot = state % (1 << 24)
        symbol = next(i for i in range(len(frequencies)) if slot < starts[i + 1])
        state = frequencies[symbol] * (state >> 24) + slot - starts[symbol]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        symbols.append(symbol)
    assert state == 0
    return symbols


@pytest.mark.parametrize(("density", "values"), [(0.05, 16), (0.5, 3), (1.0, 200)])
def test_the_stream_depends_on_integers_alone(density: float, values: int) -> None:
    symbols = pruned(3000, density, values)
    table = fit(histogram(symbols.values, symbols.alphabet))
    indices = np.searchsorted(table.used, symbols.values).astype(np.int32)
    stream = ANS.pack([(indices, table)])
    assert reference_decode(stream, table.integers().tolist(), 3000) == indices.tolist()


@pytest.mark.parametrize("coder", ["ans", "range"])
@pytest.mark.parametrize("density", [0.002, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("values", [1, 16, 200])
def test_payload_is_within_one_percent_of_entropy_plus_table(coder: str, density: float, values: int) -> None:
    symbols = pruned(200_000, density, values)
    encoded = encode(symbols, coder)
    finest = BitWriter()
    _at_step(histogram(symbols.values, symbols.alphabet), 0).write(finest)
    assert len(encoded.payload) <= 1.01 * entropy_bytes(symbols) + finest.length / 8 + 8
    assert encoded.table_bytes <= 3 + symbols.alphabet


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_a_coin_costs_its_binary_entropy(p: float) -> None:
    n = 400_000
    values = np.zeros(n, dtype=np.int32)
    values[np.random.default_rng(0).choice(n, int(p * n), replace=False)] = 1
    shannon = n * (-p * math.log2(p) - (1 - p) * math.log2(1 - p)) / 8
    size = len(encode(Symbols(values, 2, zero=True), "ans_direct").payload)
    assert shannon < size < 1.001 * shannon + 12


def test_positions_and_values_are_told_apart() -> None:
    n, nonzero = 100_000, 10_000
    encoded = encode(pruned(n, 0.1, 16), "ans_direct")
    positions = n * (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)) / 8
    assert encoded.position_bytes == pytest.approx(positions, rel=0.03)
    assert encoded.value_bytes < 0.5 * nonzero


def test_small_data_get_coarse_tables() -> None:
    sizes = {n: encode(pruned(n, 1.0, 64), "ans_direct").table_bytes for n in (300, 1_000_000)}
    assert sizes[300] < 32
    assert sizes[300] < sizes[1_000_000] < 64


def test_constants_are_eighth_roots_of_two() -> None:
    for j, constant in enumerate(_EIGHTHS.tolist()):
        assert (2 * constant - 1) ** 8 <= 2 ** (8 * 31 - j) <= (2 * constant + 1) ** 8


@given(st.lists(st.integers(1, 2**40), min_size=2, max_size=200))
def test_frequencies_are_complete_and_come_back(counts: list[int]) -> None:
    table = fit(from_counts(np.array(counts), 200))
    frequencies = table.integers()
    assert frequencies.min() >= 1
    assert frequencies.sum() == 1 << 24
    writer = BitWriter()
    table.write(writer)
    again = read(BitReader(writer.bytes()), 10**6, 200)
    assert np.array_equal(again.integers(), frequencies)
    assert np.array_equal(again.used, table.used)


def test_a_level_is_the_stated_fraction_of_a_bit() -> None:
    levels = np.array([0, 8, 16, 24, 24])
    table = Frequencies(np.arange(5, dtype=np.int32), levels, step=0, alphabet=5)
    np.testing.assert_allclose(table.integers() / 2**24, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16], rtol=1e-5)
    coarse = Frequencies(table.used, levels // 8, step=3, alphabet=5)
    assert np.array_equal(coarse.integers(), table.integers())


def test_no_state_word_is_wasted() -> None:
    """What little data cost beyond their entropy: at most the three bytes that a 24-bit model needs to start."""
    for n in (3, 10, 100, 1000):
        symbols = pruned(n, 0.5, 2, seed=n)
        encoded = encode(symbols, "ans_direct")
        found = histogram(symbols.values, 3)
        assert len(encoded.payload) - encoded.table_bytes <= fit(found).bits(found.counts) / 8 + 4
    assert len(encode(Symbols(np.zeros(10**6, dtype=np.int32), 17, True), "ans").payload) <= 2


@pytest.mark.parametrize("coder", ["ans_direct", "range_direct"])
def test_a_stream_that_holds_more_is_rejected(coder: str) -> None:
    symbols = pruned(5000, 0.2, 16)
    payload = encode(symbols, coder).payload
    for tail in (b"\0", b"\0\0\0\0", bytes(range(1, 9))):
        with pytest.raises(CodingError):
            decode(coder, payload + tail, 5000, 17)
    with pytest.raises(CodingError):
        decode(coder, payload, 2500, 17)
