"""The context coder: round trips, fixed bytes, closed forms, damage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet import artifact
from tersenet.artifact import Contents, document
from tersenet.coding import CODERS, CodingError, context, decode, encode
from tersenet.coding.context_way import Grid, Way, grid_of, likely_lag
from tersenet.coding.logistic import SQUASH, belief
from tersenet.core.code import Code, Symbols

GOLDEN = "a170e103e1a5e899533844a12c8bd5210c209b6eac6a2add02af2580dd63e83fe716c831c83b85e2756860ad4237c1896ca11ff2"


def coded(values: np.ndarray, alphabet: int, zero: bool = True) -> tuple[Symbols, bytes]:
    symbols = Symbols(values.reshape(-1).astype(np.int32), alphabet, zero, values.shape)
    return symbols, encode(symbols, "mix").payload


def comes_back(symbols: Symbols, payload: bytes) -> None:
    found = decode("mix", payload, len(symbols.values), symbols.alphabet, symbols.shape)
    np.testing.assert_array_equal(found, symbols.values)


shapes = st.one_of(
    st.tuples(st.integers(1, 900)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(60, 70)),
)


@settings(max_examples=120, deadline=None)
@given(
    shape=shapes, alphabet=st.sampled_from([1, 2, 3, 4, 16, 17, 255, 256, 70_000, 2**31]), zero=st.booleans(),
    density=st.sampled_from([0.0, 0.03, 0.4, 1.0]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_what_goes_in_comes_out(shape, alphabet: int, zero: bool, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(shape) < density, rng.integers(0, alphabet, shape), 0)
    values *= rng.random(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) < 0.7
    comes_back(*coded(values, alphabet, zero))


def test_bytes_are_the_same_everywhere() -> None:
    values = np.arange(240).reshape(12, 20) ** 3 % 31 % 9
    symbols, payload = coded(np.where(values < 5, 0, values - 4), 5)
    assert payload.hex() == GOLDEN
    comes_back(symbols, payload)


def test_the_table_is_the_rounded_function() -> None:
    logits = (np.arange(-1536, 1536) + 0.5) / 128
    np.testing.assert_array_equal(SQUASH, np.clip(np.rint(65536 / (1 + np.exp(-logits))), 1, 65535))


def test_no_variance_a_belief_begins_with_can_become_negative() -> None:
    from tersenet.coding.context import _cells
    from tersenet.coding.context_model import new_beliefs

    _, scan = _cells(Grid(5, 9), Way(True, 2**20, grouped=True), 2**21)
    beliefs, _ = new_beliefs(scan)
    assert np.all(beliefs & 0xFFFFFFFF < 1 << 30)  # s − s² is positive
    assert belief(-1.5, 0.25) >> 32 == -1.5 * 65536


def dirichlet_bits(counts: np.ndarray) -> float:
    """The ideal adaptive code of independent symbols: a Dirichlet(½) mixture (Krichevsky and Trofimov 1981)."""
    m, n = len(counts), int(counts.sum())
    likelihood = math.lgamma(m / 2) - math.lgamma(n + m / 2)
    likelihood += sum(math.lgamma(count + 0.5) - math.lgamma(0.5) for count in counts)
    return -likelihood / math.log(2)


@pytest.mark.parametrize("probabilities", [[0.95, 0.05], [0.7, 0.3], [0.5, 0.25, 0.25], [0.4] + [0.1] * 6])
def test_independent_symbols_take_what_the_ideal_adaptive_code_takes(probabilities: list[float]) -> None:
    rng = np.random.default_rng(len(probabilities))
    values = rng.choice(len(probabilities), size=(200, 200), p=probabilities)
    ideal = dirichlet_bits(np.bincount(values.reshape(-1))) / 8
    assert ideal - 2 < len(coded(values, len(probabilities))[1]) < 1.02 * ideal + 4


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_are_told_apart(axis: int) -> None:
    rng = np.random.default_rng(axis)
    density = np.where(rng.random((200, 1)) < 0.2, 0.3, 0.01)
    values = (rng.random((200, 200)) < density).astype(int)
    lines = sum(dirichlet_bits(np.bincount(row, minlength=2)) for row in values) / 8
    alike = dirichlet_bits(np.bincount(values.reshape(-1))) / 8
    assert len(coded(values if axis else values.T, 2)[1]) < 1.03 * lines < 0.8 * alike


def test_dead_rows_and_channels_cost_a_bit_or_less() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 3, (30, 40))
    large = np.zeros((90, 120), dtype=int)
    large[::3, ::3] = small
    assert len(coded(large, 3)[1]) < len(coded(small, 3)[1]) + (90 + 120) / 8 + 2


def test_the_shape_of_the_weight_reaches_the_coder_through_a_file() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((100, 100)) < rng.choice([0.01, 0.4], 100)).astype(np.int32)
    stream = Symbols(values.reshape(-1), 2, zero=True)
    with_shape, ledger = artifact.to_bytes(Contents({"w": Code("any", (100, 100), {"mask": stream})}), "mix")
    without, _ = artifact.to_bytes(Contents({"w": Code("any", (10_000,), {"mask": stream})}), "mix")
    assert len(with_shape) < 0.9 * len(without)
    found = document.read_bytes(with_shape).tensors["w"].streams["mask"]
    np.testing.assert_array_equal(found.values, stream.values)
    assert document.ledger_of(with_shape).rows == ledger.rows


def test_only_best_asks_the_slow_coder() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((100, 100)) < rng.choice([0.01, 0.4], 100)).astype(np.int32)
    symbols = Symbols(values.reshape(-1), 2, zero=True, shape=(100, 100))
    assert encode(symbols, "best").coder == "mix"
    assert not CODERS[encode(symbols).coder].thorough


@pytest.mark.parametrize("zero", [True, False])
def test_symbols_are_numbers_in_the_order_of_the_uniform_form(zero: bool) -> None:
    way = Way(zero, negative=3)
    numbers = way.numbers(np.arange(7))
    assert numbers.tolist() == ([0, -3, -2, -1, 1, 2, 3] if zero else [-3, -2, -1, 0, 1, 2, 3])
    np.testing.assert_array_equal(way.symbols(numbers), np.arange(7))


def test_rows_of_an_image_are_found() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((60, 20, 20))
    smooth = weights + sum(np.roll(weights, shift, axis) for shift in (-1, 1) for axis in (1, 2))
    assert likely_lag(np.trunc(smooth.reshape(60, 400)).astype(np.int32)) == 20


def test_shapes_become_grids() -> None:
    assert grid_of((6, 4, 3, 5), 360) == Grid(6, 4, 15, 5)
    assert grid_of((6, 4), 24) == Grid(6, 4)
    assert grid_of((6, 4, 1, 1), 24) == Grid(6, 4)
    assert grid_of((6, 4, 16, 16), 6144) == Grid(6, 1024)
    assert grid_of((6, 4), 25) == grid_of((25,), 25) == Grid(1, 25)


@pytest.mark.parametrize("shape", [(90, 100), (3, 3000), (9000,)])
def test_chunks_stand_alone(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(context, "CHUNK", 2000)
    rng = np.random.default_rng(1)
    values = np.where(rng.random(shape) < 0.2, rng.integers(0, 3, shape), 0)
    symbols, payload = coded(values, 3)
    comes_back(symbols, payload)
    monkeypatch.setattr(context, "_SMALL", 0)
    way = Way(True, 1)
    streams = context._streams(symbols.values, 3, grid_of(shape, 9000), way)
    assert len(streams) == 5
    columns = shape[1] if shape == (90, 100) else 2000
    first = context._streams(symbols.values[:2000], 3, Grid(2000 // columns, columns), way)
    assert first == streams[:1]


def test_most_shortened_streams_are_refused() -> None:
    """Not all: some are the stream of other symbols. Against those a file has its digest."""
    symbols, payload = coded(np.random.default_rng(0).integers(0, 16, (40, 50)), 16)
    refused = 0
    for end in range(len(payload) - 40, len(payload)):
        try:
            found = decode("mix", payload[:end], 2000, 16, symbols.shape)
            assert found.max() < 16
        except CodingError:
            refused += 1
    assert refused >= 30
    with pytest.raises(CodingError):
        decode("mix", payload + b"\1", 2000, 16, symbols.shape)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("00110", "lag of"),  # lagging; then a block: k = 0, 11 zeros, a one, eleven bits
        ("00010", "negative"),
    ],
)
def test_numbers_out_of_range_are_refused(head: str, why: str) -> None:
    bits = head + "000" + "0" * 11 + "1" + "1" * 11
    bits += bits[5:]
    payload = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")
    with pytest.raises(CodingError, match=why):
        decode("mix", payload, 100, 16, (10, 10))


def test_a_row_of_nothing_and_a_payload_for_it() -> None:
    assert len(decode("mix", b"", 0, 5)) == 0
    with pytest.raises(CodingError):
        decode("mix", b"\0", 0, 5)
