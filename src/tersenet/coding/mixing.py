"""Binary arithmetic coding with mixed predictions, in integers alone: every machine gives and reads the same bits.

A *slot* is an adaptive probability that the next bit in some context is one: 22 bits of probability over 10 bits that
count how much it has seen, or 0 if the context is new. A bit is predicted by a mix of slots in the logistic domain
(Mahoney 2005, "Adaptive Weighing of Context Models for Lossless Data Compression"), here around the first of them, the
*base*, which knows no context: logit p = w₀·x₀ + Σ wᵢ·(xᵢ − x₀). A new slot begins as the base, so it says nothing
until it knows better. The weights follow the gradient of the code length.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LOGIT_BITS = 8  # logits are multiples of 1/256
_MAX_LOGIT = 12 << LOGIT_BITS
_ONE = 1 << 96


def _exponential(numerator: int, denominator: int) -> int:
    """e^(numerator / denominator) · 2⁹⁶ by its series in integers; exact but for the last digits."""
    total, term, n = 0, _ONE, 1
    while term:
        total, term, n = total + term, term * numerator // (denominator * n), n + 1
    return total


def _powers(step: int, count: int) -> list[int]:
    """`step`^i for i < count, all scaled by 2⁹⁶."""
    powers = [_ONE]
    for _ in range(count - 1):
        powers.append(powers[-1] * step >> 96)
    return powers


def _squash() -> np.ndarray:
    """Entry i + 3072: 65536 / (1 + e^(−i/256)), rounded, and 1 to 65535."""
    upper = [
        min((65536 * power + (power + _ONE) // 2) // (power + _ONE), 65535)
        for power in _powers(_exponential(1, 1 << LOGIT_BITS), _MAX_LOGIT + 1)
    ]
    return np.array([65536 - value for value in upper[:0:-1]] + upper, dtype=np.int32)


def _stretch() -> np.ndarray:
    """Entry i: 256 · ln(p / (1 − p)), rounded, where p = (i + ½) / 4096."""
    halves = _powers(_exponential(1, 2 << LOGIT_BITS), 2 * _MAX_LOGIT)[1::2]  # e^((k + ½) / 256)
    upper, k = [], 0
    for i in range(2048, 4096):
        while (2 * i + 1) * _ONE >= halves[k] * (8191 - 2 * i):
            k += 1
        upper.append(k)
    return np.array([-value for value in reversed(upper)] + upper, dtype=np.int32)


SQUASH = _squash()
STRETCH = _stretch()
MOST_SEEN = 1023
RATE = np.array([round(65536 * 2 / (2 * n + 3)) for n in range(MOST_SEEN + 1)], dtype=np.int32)  # 1 / (n + 1.5)

LEARNING_RATE = 50
HALF_STEP = 1 << 19
WEIGHT_BITS = 16
NEW_SEEN = 5  # a new slot counts what the base says as so many bits seen

inlined = njit(nogil=True, error_model="numpy", forceinline=True)
"""For what is called in one or two places of the inner loop: a call would copy all its arrays' descriptors."""

LOW, HIGH, POINT, PLACE = range(4)
_WORD = 0xFFFFFFFF


@inlined
def narrow(coder, data, decoding, bit, probability):  # type: ignore[no-untyped-def]
    """Codes one bit that is 1 with `probability` / 65536; returns it. Reads zeros beyond the end of `data`.

    coder: int64 [4], the bounds of the interval, the number the decoder looks at, and how many bytes are settled.
    """
    low, high = coder[LOW], coder[HIGH]
    span = high - low
    middle = low + (span >> 16) * probability + ((span & 0xFFFF) * probability >> 16)
    if decoding:
        bit = 1 if coder[POINT] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        place = coder[PLACE]
        coder[PLACE] = place + 1
        if decoding:
            following = data[place + 4] if place + 4 < len(data) else 0
            coder[POINT] = (coder[POINT] << 8 & _WORD) | following
        elif place < len(data):
            data[place] = high >> 24
        low = low << 8 & _WORD
        high = (high << 8 & _WORD) | 255
    coder[LOW], coder[HIGH] = low, high
    return bit


@inlined
def begin(data, decoding):  # type: ignore[no-untyped-def]
    coder = np.array([0, _WORD, 0, 0], dtype=np.int64)
    if decoding:
        for place in range(4):
            coder[POINT] = coder[POINT] << 8 | (data[place] if place < len(data) else 0)
    return coder


@inlined
def end(coder, data, decoding):  # type: ignore[no-untyped-def]
    """Writes the first bytes of the roundest number in the interval; returns the length.

    Decoding: −1 if that is not what stands there and ends `data`. A length beyond that of `data`: it was too short.
    """
    low, high = coder[LOW], coder[HIGH]
    zeros = 24
    while (low + (1 << zeros) - 1) >> zeros << zeros > high:
        zeros -= 8
    last = (low + (1 << zeros) - 1) >> zeros << zeros
    length = coder[PLACE] + 4 - zeros // 8
    if decoding:
        return length if last == coder[POINT] and length == len(data) else -1
    for place in range(coder[PLACE], min(length, len(data))):
        data[place] = last >> 24 & 255
        last <<= 8
    return length


@inlined
def learn(slots, place, slot, bit):  # type: ignore[no-untyped-def]
    """Moves a slot towards `bit` by 1 / (bits seen + 1.5) of the way, and stores it."""
    probability, seen = slot >> 10, slot & MOST_SEEN
    probability += ((bit << 22) - probability) * RATE[seen] >> 16
    slots[place] = probability << 10 | min(seen + 1, MOST_SEEN)


@inlined
def plain_bit(slots, place, coder, data, decoding, bit):  # type: ignore[no-untyped-def]
    """A bit predicted by one slot."""
    slot = np.int64(slots[place])
    bit = narrow(coder, data, decoding, bit, min(max(slot >> 16, 32), 65504))
    learn(slots, place, slot, bit)
    return bit


@inlined
def recall(slots, place, base):  # type: ignore[no-untyped-def]
    """The slot at `place`; a new one begins as the base."""
    slot = slots[place]
    return np.int64(slot) if slot else base >> 10 << 10 | NEW_SEEN


@inlined
def logit(slot):  # type: ignore[no-untyped-def]
    return np.int64(STRETCH[slot >> 20])


@inlined
def probability_of(total):  # type: ignore[no-untyped-def]
    return np.int64(SQUASH[min(max(total >> WEIGHT_BITS, -_MAX_LOGIT), _MAX_LOGIT) + _MAX_LOGIT])


@inlined
def mixed_by_five(slots, places, node, weights, first, coder, data, decoding, bit):  # type: ignore[no-untyped-def]
    """A bit predicted by the slots `node` beyond five places, of which the first is the base, with as many weights."""
    a, b, c, d, e = places
    base = np.int64(slots[a + node])
    slot1, slot2 = recall(slots, b + node, base), recall(slots, c + node, base)
    slot3, slot4 = recall(slots, d + node, base), recall(slots, e + node, base)
    x0 = logit(base)
    x1, x2, x3, x4 = logit(slot1) - x0, logit(slot2) - x0, logit(slot3) - x0, logit(slot4) - x0
    total = weights[first] * x0 + weights[first + 1] * x1 + weights[first + 2] * x2
    total += weights[first + 3] * x3 + weights[first + 4] * x4
    probability = probability_of(total)
    bit = narrow(coder, data, decoding, bit, probability)
    step = ((bit << 16) - probability) * LEARNING_RATE
    weights[first] += x0 * step + HALF_STEP >> 20
    weights[first + 1] += x1 * step + HALF_STEP >> 20
    weights[first + 2] += x2 * step + HALF_STEP >> 20
    weights[first + 3] += x3 * step + HALF_STEP >> 20
    weights[first + 4] += x4 * step + HALF_STEP >> 20
    learn(slots, a + node, base, bit)
    learn(slots, b + node, slot1, bit)
    learn(slots, c + node, slot2, bit)
    learn(slots, d + node, slot3, bit)
    learn(slots, e + node, slot4, bit)
    return bit


@inlined
def mixed_by_seven(slots, places, node, weights, first, coder, data, decoding, bit):  # type: ignore[no-untyped-def]
    """As `mixed_by_five`, with seven places."""
    a, b, c, d, e, f, g = places
    base = np.int64(slots[a + node])
    slot1, slot2, slot3 = recall(slots, b + node, base), recall(slots, c + node, base), recall(slots, d + node, base)
    slot4, slot5, slot6 = recall(slots, e + node, base), recall(slots, f + node, base), recall(slots, g + node, base)
    x0 = logit(base)
    x1, x2, x3 = logit(slot1) - x0, logit(slot2) - x0, logit(slot3) - x0
    x4, x5, x6 = logit(slot4) - x0, logit(slot5) - x0, logit(slot6) - x0
    total = weights[first] * x0 + weights[first + 1] * x1 + weights[first + 2] * x2 + weights[first + 3] * x3
    total += weights[first + 4] * x4 + weights[first + 5] * x5 + weights[first + 6] * x6
    probability = probability_of(total)
    bit = narrow(coder, data, decoding, bit, probability)
    step = ((bit << 16) - probability) * LEARNING_RATE
    weights[first] += x0 * step + HALF_STEP >> 20
    weights[first + 1] += x1 * step + HALF_STEP >> 20
    weights[first + 2] += x2 * step + HALF_STEP >> 20
    weights[first + 3] += x3 * step + HALF_STEP >> 20
    weights[first + 4] += x4 * step + HALF_STEP >> 20
    weights[first + 5] += x5 * step + HALF_STEP >> 20
    weights[first + 6] += x6 * step + HALF_STEP >> 20
    learn(slots, a + node, base, bit)
    learn(slots, b + node, slot1, bit)
    learn(slots, c + node, slot2, bit)
    learn(slots, d + node, slot3, bit)
    learn(slots, e + node, slot4, bit)
    learn(slots, f + node, slot5, bit)
    learn(slots, g + node, slot6, bit)
    return bit
