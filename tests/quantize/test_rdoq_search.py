"""Decisions against all assignments there are, GPTQ as its paper has it, and rates against the coder's bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.coding import encode
from tersenet.coding.context_way import Way
from tersenet.core.code import Symbols
from tersenet.forms.kernels.trellis import ONE, TABLES, Prices, decide, numbers_of
from tersenet.quantize import feedback
from tersenet.quantize.feedback import Grid, Harm, quantized
from tersenet.quantize.rates import Rates, Scan, rates
from tersenet.quantize.searches import least_near, price_within


def reconstruction(indices, states):
    """n of each index, by the words of the standard: even multiples in states below, odd ones and zero in the others;
    states 1 and 2 of four are those of VVC in the other order."""
    vvc = {0: (0, 2), 1: (2, 0), 2: (1, 3), 3: (3, 1)}
    state, found = 0, []
    for k in indices:
        if states == 4:
            odd, state = state >> 1, vvc[state][k % 2]
        else:
            odd, state = state % 2, TABLES[8][state][k % 2]
        found.append(2 * k - (odd if k > 0 else -odd if k < 0 else 0))
    return found


def problem(seed, rows, most):
    rng = np.random.default_rng(seed)
    prices = Prices(
        rng.random(rows), 1 + rng.random(rows), 1 + rng.random(rows), rng.integers(0, 2, rows).astype(np.uint8),
        3 * rng.random((2, most)),
    )  # fmt: skip
    return 2 * rng.standard_normal(rows), rng.random(rows), rng.random(rows) > 0.2, prices


def cost(indices, numbers, targets, curvature, price, prices):
    total = 0.0
    for row, (k, n) in enumerate(zip(indices, numbers, strict=True)):
        bits = prices.zero[row]
        if k:
            sign = prices.positive if k > 0 else prices.negative
            bits = sign[row] + prices.magnitude[prices.kind[row], abs(k) - 1]
        total += curvature[row] * (targets[row] - n) ** 2 + price * bits
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 4, 8]), st.sampled_from([0.0, 0.05, 1.0]))
def test_a_column_is_decided_as_well_as_by_trying_everything(seed, states, price):
    targets, curvature, allowed, prices = problem(seed, 4, 2)
    indices, numbers = np.zeros((2, 4), np.int32)
    least = decide(targets, curvature, allowed, price, prices, TABLES.get(states, ONE), indices, numbers)
    every = [
        cost(ks, ks if states == 1 else reconstruction(ks, states), targets, curvature, price, prices)
        for ks in itertools.product(*(range(-2, 3) if may else (0,) for may in allowed))
    ]
    assert least == pytest.approx(min(every))
    assert cost(indices, numbers, targets, curvature, price, prices) == pytest.approx(least)
    assert not indices[~allowed].any()


def test_numbers_follow_the_machine():
    indices = np.random.default_rng(0).integers(-3, 4, (50, 3)).astype(np.int32)
    for states in (4, 8):
        found = numbers_of(indices, TABLES[states])
        assert all(found[:, c].tolist() == reconstruction(indices[:, c].tolist(), states) for c in range(3))


def grid(shape, step=0.5, most=20, table=ONE):
    return Grid(step, most, np.ones(shape, bool), table)


def correlated(rows, columns, seed=0):
    """Inputs with neighbours alike, and a weight."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, columns)) @ (np.eye(columns) + 0.9 * np.eye(columns, k=1))
    gram = x.T @ x / 400 + 0.01 * np.eye(columns)
    weight, gain = rng.standard_normal((rows, columns)), 0.5 + rng.random(rows)
    return Harm(weight, gain[:, None] * gram.diagonal(), gain, gram[None])


def test_without_feedback_and_price_it_is_rounding_to_nearest():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((7, 90))
    found = quantized(Harm(weight, rng.random((7, 90))), grid((7, 90)), Scan(7, 90, 1, 2), 0.0)
    assert np.array_equal(found.numbers, np.rint(weight / 0.5))


def test_without_feedback_each_sweep_is_the_optimum_of_all_assignments():
    """Every entry alone, over all numbers, at the rates of the sweep."""
    rng = np.random.default_rng(1)
    weight, curvature = rng.laplace(size=(6, 80)), 0.1 + rng.random((6, 80))
    harm, wide = Harm(weight, curvature), grid((6, 80))
    costs = rates(np.rint(weight / 0.5).astype(np.int32), Scan(6, 80, 1, 2), wide.most)
    indices, _ = feedback._sweep(harm, wide, costs, 0.02, feedback._alone)
    numbers = np.arange(-20, 21)
    bits = np.where(
        numbers == 0,
        costs.zero[..., None],
        costs.nonzero[..., None] + costs.magnitude[costs.kind][..., np.maximum(abs(numbers), 1) - 1],
    )
    every = 0.5 * curvature[..., None] * (weight[..., None] - 0.5 * numbers) ** 2 + 0.02 * bits
    assert np.array_equal(indices, numbers[every.argmin(-1)])


def gptq(weight, gram, step):
    """Frantar et al. 2022, algorithm 1, without blocks: H⁻¹ updated by Gaussian elimination (eq. 3)."""
    w, inverse, found = weight.copy(), np.linalg.inv(gram), np.zeros_like(weight)
    for j in range(w.shape[1]):
        found[:, j] = np.rint(w[:, j] / step)
        error = (w[:, j] - step * found[:, j]) / inverse[j, j]
        w -= error[:, None] * inverse[j]
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return found


def test_the_first_sweep_without_a_price_is_gptq():
    harm = correlated(5, 150)  # over three blocks of columns
    table = grid((5, 150))
    _, numbers = feedback._sweep(harm, table, feedback._universal(harm, table), 0.0, feedback._ahead)
    assert np.array_equal(numbers, gptq(harm.weight, harm.gram[0], 0.5))


def test_two_inputs_by_hand():
    """G = [[1, r], [r, 1]]: what 0.4 loses by becoming 0, the second weight makes up for by 0.4 r."""
    harm = Harm(np.array([[0.4, 0.2]]), np.ones((1, 2)), np.ones(1), np.array([[[1.0, 0.9], [0.9, 1.0]]]))
    whole = grid((1, 2), step=1.0)
    _, numbers = feedback._sweep(harm, whole, feedback._universal(harm, whole), 0.0, feedback._ahead)
    assert numbers.tolist() == [[0, 1]]  # 0.2 + 0.36
    assert harm.of(numbers) == pytest.approx(0.5 * (0.16 + 0.64 - 2 * 0.9 * 0.4 * 0.8))
    assert harm.of(numbers) < harm.of(np.zeros((1, 2)))


@pytest.mark.parametrize("states", [1, 4])
def test_feedback_does_less_harm_than_nearest_and_no_sweep_does_more(states):
    harm, table = correlated(20, 100), grid((20, 100), table=TABLES.get(states, ONE))
    way, harms = feedback._alone, []
    for number in range(4):
        _, numbers = feedback._sweep(harm, table, feedback._universal(harm, table), 0.0, way)
        harms.append(harm.of(numbers * 0.5))
        way = feedback._ahead if number == 0 else feedback._around(numbers)
    assert harms[1] < 0.8 * harms[0]
    assert harms[1] > harms[2] >= harms[3]


def test_groups_of_rows_have_inputs_of_their_own():
    first, second = correlated(3, 20, 1), correlated(3, 20, 2)
    both = Harm(
        np.concatenate([first.weight, second.weight]), np.concatenate([first.curvature, second.curvature]),
        np.concatenate([first.gain, second.gain]), np.concatenate([first.gram, second.gram]),
    )  # fmt: skip
    parts = [quantized(one, grid((3, 20)), Scan(3, 20, 1, 2), 0.0).numbers for one in (first, second)]
    whole = quantized(both, grid((6, 20)), Scan(6, 20, 1, 2), 0.0)
    assert np.array_equal(whole.numbers, np.concatenate(parts))
    assert whole.harm == pytest.approx(sum(h.of(0.5 * n) for h, n in zip((first, second), parts, strict=True)))


def test_masked_entries_stay_zero_and_the_others_make_up_for_them():
    harm = correlated(10, 60)
    allowed = np.random.default_rng(3).random((10, 60)) > 0.5
    for table in (ONE, TABLES[8]):
        found = quantized(harm, Grid(0.5, 20, allowed, table), Scan(10, 60, 1, 2), 1e-3)
        assert not found.indices[~allowed].any() and found.numbers[allowed].any()


def test_fewer_bits_and_more_harm_at_a_higher_price():
    harm = correlated(30, 60)
    for table in (ONE, TABLES[4]):
        one = grid((30, 60), table=table)
        found = [quantized(harm, one, Scan(30, 60, 1, 2), price) for price in (0.0, 1e-2, 1e-1, 1.0, 1e6)]
        assert all(a.bits > b.bits and a.harm < b.harm for a, b in itertools.pairwise(found[:4]))
        assert not found[-1].numbers.any()


def gap(bits, harm, entries):
    """dB above the distortion–rate function of independent normal numbers, D = 2^(−2R)."""
    return 10 * np.log10(2 * harm / entries / 2 ** (-2 * bits / entries))


def test_scalar_and_trellis_coded_quantization_come_as_near_to_the_bound_as_is_known():
    """At high rates entropy-coded uniform steps stay 1.53 dB away (Gish & Pierce 1968), with 8 states about 0.5 dB
    (Fischer & Wang 1992, entropy-constrained trellis-coded quantization)."""
    weight = np.random.default_rng(0).standard_normal((200, 100))
    harm, price = Harm(weight, np.ones(weight.shape)), 0.003
    high = (12 * price / np.log(2)) ** 0.5  # the step at which a bit more costs what it saves
    for share, table, wanted in ((1.0, ONE, 1.53), (0.6, TABLES[4], 0.65), (0.6, TABLES[8], 0.5)):
        one = grid(weight.shape, step=share * high, most=200, table=table)
        found = quantized(harm, one, Scan(200, 100, 1, 2), price)
        assert gap(found.bits, found.harm, weight.size) == pytest.approx(wanted, abs=0.08)


def source(kind, rng):
    if kind == "rows differ":
        return rng.laplace(size=(96, 128)) * np.exp(0.7 * rng.standard_normal((96, 1)))
    if kind == "columns differ":
        return rng.standard_normal((96, 128)) * np.exp(rng.standard_normal((1, 128)))
    return rng.laplace(size=(32, 64, 3, 3)) * np.exp(0.5 * rng.standard_normal((32, 64, 1, 1)))


@pytest.mark.parametrize("kind", ["rows differ", "columns differ", "kernels"])
def test_rates_are_near_what_the_coder_writes(kind):
    numbers = np.rint(0.6 * source(kind, np.random.default_rng(0))).astype(np.int32)
    rows, channels, *places = numbers.shape
    scan = Scan(rows, channels, int(np.prod(places)), places[-1] if places else 2)
    top = int(abs(numbers).max())
    estimate = rates(numbers.reshape(rows, -1), scan, top).bits(numbers.reshape(rows, -1)) / 8
    symbols = Way(True, top).symbols(numbers.reshape(-1)).astype(np.int32)
    written = len(encode(Symbols(symbols, 2 * top + 1, True, numbers.shape), "mix").payload)
    assert estimate == pytest.approx(written, rel=0.06)


def test_a_rate_is_what_an_adaptive_code_of_one_context_grows_by():
    """Krichevsky and Trofimov's code: with the entry as one or as zero, its length differs by the logit of a count that
    leaves the entry out."""
    from math import lgamma, log

    def length(zeros, ones):
        return -(lgamma(zeros + 0.5) + lgamma(ones + 0.5) - 2 * lgamma(0.5) - lgamma(zeros + ones + 1)) / log(2)

    ones, zeros = 12, 187  # besides the entry
    change = length(zeros, ones + 1) - length(zeros + 1, ones)
    assert change == pytest.approx(np.log2((zeros + 0.5) / (ones + 0.5)))


def test_probabilities_sum_to_one():
    numbers = np.rint(np.random.default_rng(0).laplace(size=(20, 30))).astype(np.int32)
    found: Rates = rates(numbers, Scan(20, 30, 1, 2), 2**10 - 1)
    shares = 2.0**-found.magnitude
    assert shares.sum(1) == pytest.approx(np.ones(len(shares)))
    assert 2.0**-found.zero + 2 * 2.0**-found.nonzero == pytest.approx(np.ones((20, 30)))


def test_walks_and_prices():
    assert least_near(lambda n: (n - 5) ** 2, -20, (4, 1)) == 5
    tried = []

    def size(price):
        tried.append(price)
        return int(1e5 * (1 + price / 1e-6) ** -0.7)

    for budget in (99_000, 5_000, 40):
        tried.clear()
        price = price_within(budget, 1e-5, size)
        assert 0.95 * budget <= size(price) <= budget and len(tried) < 20
    assert price_within(10**6, 1.0, lambda price: 7) < 1  # more than there is to spend
