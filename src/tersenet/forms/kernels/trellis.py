"""Which index each entry of a column gets: alone, or along the path of least cost through a trellis.

An entry's cost is curvature · (target − n)² + price · bits(index). With a trellis the number n that an index k stands
for depends on the state of a machine that the parities of the indices before it have driven:
n = 2k − sgn(k) · (state mod 2), so that even states have the even numbers, and odd ones the odd numbers and zero
(Schwarz et al. 2019, "Improved Quantization and Transform Coefficient Coding for Versatile Video Coding"; Haase et al.
2020, "Dependent Scalar Quantization for Neural Network Compression"). The least sum is found by dynamic programming
(Viterbi 1967). Without a trellis, a table of one state, n = k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")

ONE = np.zeros((1, 2), np.int64)
"""No trellis: every entry is decided alone."""

TABLES = {
    4: np.array([[0, 1], [2, 3], [1, 0], [3, 2]], np.int64),
    8: np.array([[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]], np.int64),
}
"""States → [state, parity of the index] → the next state; 4 as in VVC (Rec. ITU-T H.266, its states 1 and 2 having
changed places), 8 as in the coding of neural networks (ISO/IEC 15938-17)."""


class Prices(NamedTuple):
    """What the indices of a column cost in bits: zero [rows], or positive or negative [rows] by its sign, and of
    magnitude [kinds, most] row kind [rows], place |k| − 1. |k| is at most `most`."""

    zero: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    kind: np.ndarray
    magnitude: np.ndarray


def free(rows: int, most: int) -> Prices:
    """Every index from −most to most, for no bits."""
    nothing = np.zeros(rows)
    return Prices(nothing, nothing, nothing, np.zeros(rows, np.uint8), np.zeros((1, most)))


@compiled
def bits_of(prices, row, k):  # type: ignore[no-untyped-def]
    if k == 0:
        return prices.zero[row]
    sign = prices.positive[row] if k > 0 else prices.negative[row]
    return sign + prices.magnitude[prices.kind[row], abs(k) - 1]


@compiled
def number_of(k, state, states):  # type: ignore[no-untyped-def]
    if states == 1:
        return k
    return 2 * k - np.sign(k) * (state & 1)


@compiled
def cheapest(target, curvature, price, prices, row, odd, parity, states):  # type: ignore[no-untyped-def]
    """(index, cost): the least cost of all indices of this parity (−1: of either) where the state is `odd`.

    From the nearest index up, and then down, until the distance alone costs more: n never falls as k rises.
    """
    most = prices.magnitude.shape[1]
    stride = 1 if parity < 0 else 2
    start = np.int64(np.rint(target if states == 1 else (target + np.sign(target) * odd) / 2))
    start = min(max(start, -most), most)
    if parity >= 0 and (start & 1) != parity:
        start += 1
    best, least = np.int64(0), np.inf
    if parity < 1:
        least = curvature * target * target + price * prices.zero[row]
    for move in (stride, -stride):
        k = start if move > 0 else start - stride
        while -most <= k <= most:
            gap = target - number_of(k, odd, states)
            distance = curvature * gap * gap
            if distance >= least:
                break
            cost = distance + price * bits_of(prices, row, k)
            if cost < least:
                best, least = k, cost
            k += move
    return best, least


@compiled
def branch(target, curvature, allowed, price, prices, row, odd, parity, states):  # type: ignore[no-untyped-def]
    """`cheapest`, where an entry that is not allowed can only be zero; one state has but one branch, at parity 0."""
    if states == 1 and parity == 1:
        return np.int64(0), np.inf
    if not allowed:
        return np.int64(0), curvature * target * target + price * prices.zero[row] if parity == 0 else np.inf
    return cheapest(target, curvature, price, prices, row, odd, parity if states > 1 else -1, states)


@compiled
def decide(targets, curvature, allowed, price, prices, table, indices, numbers):  # type: ignore[no-untyped-def]
    """Indices and numbers, int32 [rows], of a column with these targets and curvatures [rows]; 0 where not `allowed`.

    Returns the least sum of costs. The machine begins in state 0 and may end in any.
    """
    states, rows = len(table), len(targets)
    costs, found = np.full(states, np.inf), np.empty((2, 2))
    costs[0] = 0.0
    choices = np.empty((rows, 2, 2), np.int64)  # [odd, parity]
    ways = np.empty((rows, states), np.int64)  # into each state: 2 · the state before + parity
    for row in range(rows):
        for odd in range(min(states, 2)):
            for parity in range(2):
                choices[row, odd, parity], found[odd, parity] = branch(
                    targets[row], curvature[row], allowed[row], price, prices, row, odd, parity, states
                )
        after = np.full(states, np.inf)
        for state in range(states):
            for parity in range(2):
                cost, following = costs[state] + found[state & 1, parity], table[state, parity]
                if cost < after[following]:
                    after[following], ways[row, following] = cost, 2 * state + parity
        costs = after
    state = int(np.argmin(costs))
    least = costs[state]
    for row in range(rows - 1, -1, -1):
        way = ways[row, state]
        state = way >> 1
        indices[row] = choices[row, state & 1, way & 1]
        numbers[row] = number_of(indices[row], state, states)
    return least


@compiled
def decide_all(targets, allowed, prices, table, indices, numbers):  # type: ignore[no-untyped-def]
    """`decide` for each column of [rows, columns], by distance alone."""
    ones = np.ones(len(targets))
    for column in range(targets.shape[1]):
        decide(targets[:, column], ones, allowed[:, column], 0.0, prices, table, indices[:, column], numbers[:, column])


@compiled
def numbers_of(indices, table):  # type: ignore[no-untyped-def]
    """n, int32 [rows, columns], of indices [rows, columns]: each column has a machine of its own, from state 0."""
    rows, columns = indices.shape
    numbers, state = np.empty((rows, columns), np.int32), np.zeros(columns, np.int64)
    for row in range(rows):
        for column in range(columns):
            k = np.int64(indices[row, column])
            numbers[row, column] = number_of(k, state[column], len(table))
            state[column] = table[state[column], k & 1]
    return numbers
