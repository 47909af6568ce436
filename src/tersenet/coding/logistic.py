"""Binary arithmetic coding with predictions learned on the way, in integers alone: every machine gives and reads the
same bits.

The log-odds that the next bit is one are a sum of *beliefs*, one for each context in which the bit stands. This is
logistic regression, learned bit by bit: a belief is a mean and a variance, and a bit of which the sum said p moves each
mean by its variance times bit − p, and shrinks each variance s by s²·p·(1 − p). (Spiegelhalter and Lauritzen 1990,
"Sequential updating of conditional probabilities", with the covariances left out; an extended Kalman filter.) So a new
context learns fast and an old one slowly, contexts that say the same share the work, and the variance at the beginning
tells how much a context may say before it has seen much.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LOGIT = 16
"""A mean is log-odds · 2¹⁶, in the high 32 bits of a belief; a variance · 2³⁰, in the low 32."""

VARIANCE = 30
_STEPS = 7  # probabilities are those of log-odds in steps of 1/128
_MOST = 12 << _STEPS
_ONE = 1 << 96


def belief(mean: float, variance: float) -> int:
    """variance: below 1, so that no bit can take more than all of it."""
    return round(mean * (1 << LOGIT)) << 32 | round(variance * (1 << VARIANCE))


def _exponential(numerator: int, denominator: int) -> int:
    """e^(numerator / denominator) · 2⁹⁶ by its series in integers; exact but for the last digits."""
    total, term, n = 0, _ONE, 1
    while term:
        total, term, n = total + term, term * numerator // (denominator * n), n + 1
    return total


def _squash() -> np.ndarray:
    """Entry i + 1536: 65536 / (1 + e^(−(i + ½) / 128)), rounded, and 1 to 65535."""
    step, power, upper = _exponential(1, 1 << _STEPS), _exponential(1, 2 << _STEPS), []
    for _ in range(_MOST):
        upper.append(min((65536 * power + (power + _ONE) // 2) // (power + _ONE), 65535))
        power = power * step >> 96
    return np.array([65536 - value for value in reversed(upper)] + upper, dtype=np.int32)


SQUASH = _squash()

DRIFT = 10000
"""What a variance grows by with each surprise, 10⁻⁵ · 2³⁰: weights far from each other in a tensor differ."""

inlined = njit(nogil=True, error_model="numpy", forceinline=True, _nrt=False)  # type: ignore[call-overload]
"""For what is called in a few places of the inner loop. What it returns stays in registers."""

_WORD = 0xFFFFFFFF

NONE = -1
"""In place of a context. Where that is known beforehand, the compiler leaves out what would be done with it."""


@inlined
def mean(beliefs, place):  # type: ignore[no-untyped-def]
    return beliefs[np.uintp(place)] >> 32


@inlined
def probability(logit):  # type: ignore[no-untyped-def]
    """That the bit is one, · 65536."""
    return np.int64(SQUASH[np.uintp(min(max((logit >> LOGIT - _STEPS) + _MOST, 0), 2 * _MOST - 1))])


@inlined
def learn(beliefs, place, error):  # type: ignore[no-untyped-def]
    """error: (bit − p) · 65536, of a bit that was to be expected."""
    old = beliefs[np.uintp(place)]
    beliefs[np.uintp(place)] = old + ((error * (old & _WORD) >> VARIANCE) << 32)


@inlined
def learn_much(beliefs, place, error):  # type: ignore[no-untyped-def]
    """The same of a bit that was not, in which case the variance changes too."""
    old = beliefs[np.uintp(place)]
    variance = old & _WORD
    known = (variance * abs(error) >> 16) * variance >> VARIANCE
    beliefs[np.uintp(place)] = old + ((error * variance >> VARIANCE) << 32) - known + DRIFT


@inlined
def settle(low, high, point, place, data, decoding):  # type: ignore[no-untyped-def]
    """Takes away the first bytes where the bounds of the interval agree. Reads zeros beyond the end of `data`."""
    while (low ^ high) >> 24 == 0:
        if decoding:
            following = np.int64(data[place + 4]) if place + 4 < len(data) else np.int64(0)
            point = (point << 8 & _WORD) | following
        elif place < len(data):
            data[place] = high >> 24
        place += 1
        low = low << 8 & _WORD
        high = (high << 8 & _WORD) | 255
    return low, high, point, place


@inlined
def narrow(coder, data, decoding, bit, predicted):  # type: ignore[no-untyped-def]
    """Codes one bit that is 1 with `predicted` / 65536; returns it, and the coder.

    coder: the bounds of the interval, the number the decoder looks at, and how many bytes are settled.
    `settle` stands in both branches, so that the processor guesses the bit and goes on, instead of waiting for it.
    """
    low, high, point, place = coder
    middle = low + ((high - low) * predicted >> 16)
    if point <= middle if decoding else bit != 0:
        bit = np.int64(1)
        coder = settle(low, middle, point, place, data, decoding)
    else:
        bit = np.int64(0)
        coder = settle(middle + 1, high, point, place, data, decoding)
    return bit, coder


@inlined
def begin(data, decoding):  # type: ignore[no-untyped-def]
    point = np.int64(0)
    if decoding:
        for place in range(4):
            point = point << 8 | (np.int64(data[place]) if place < len(data) else np.int64(0))
    return np.int64(0), np.int64(_WORD), point, np.int64(0)


@inlined
def end(coder, data, decoding):  # type: ignore[no-untyped-def]
    """Writes the first bytes of the roundest number in the interval; returns the length.

    Decoding: −1 if that is not what stands there and ends `data`. A length beyond that of `data`: it was too short.
    """
    low, high, point, settled = coder
    zeros = 24
    while (low + (1 << zeros) - 1) >> zeros << zeros > high:
        zeros -= 8
    last = (low + (1 << zeros) - 1) >> zeros << zeros
    length = settled + 4 - zeros // 8
    if decoding:
        return length if last == point and length == len(data) else -1
    for place in range(settled, min(length, len(data))):
        data[place] = last >> 24 & 255
        last <<= 8
    return length


@inlined
def code_bit(beliefs, places, coder, data, decoding, bit):  # type: ignore[no-untyped-def]
    """A bit in up to four contexts, whose beliefs are at `places`; NONE: no context."""
    a, b, c, d = places
    logit, more = mean(beliefs, a), np.int64(0)
    if b != NONE:
        logit += mean(beliefs, b)
    if c != NONE:
        more += mean(beliefs, c)
    if d != NONE:
        more += mean(beliefs, d)
    predicted = probability(logit + more)
    bit, coder = narrow(coder, data, decoding, bit, predicted)
    error = (bit << 16) - predicted
    if abs(error) < 1 << 15:
        learn(beliefs, a, error)
        if b != NONE:
            learn(beliefs, b, error)
        if c != NONE:
            learn(beliefs, c, error)
        if d != NONE:
            learn(beliefs, d, error)
    else:
        learn_much(beliefs, a, error)
        if b != NONE:
            learn_much(beliefs, b, error)
        if c != NONE:
            learn_much(beliefs, c, error)
        if d != NONE:
            learn_much(beliefs, d, error)
    return bit, coder
