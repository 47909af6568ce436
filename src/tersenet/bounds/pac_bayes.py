"""A certificate from the size of the file: an upper bound on the error on new data, from training data alone.

A prefix-free format gives each file h of |h| bits the prior weight 2^−|h|, and these sum to at most 1 (Kraft). A union
bound over all files then holds for whichever one training has found (Occam's bound: Blumer et al. 1987; PAC-Bayes with
all mass on one network). With probability at least 1 − δ over n examples drawn independently, for all files at once:

    kl(ê ‖ e) ≤ (|h|·ln 2 + ln(1/δ)) / n        (Chernoff; Langford 2005, "Tutorial on practical prediction theory for
                                                 classification", theorem 4.2 and the relaxation after it)
    e ≤ ê + √((|h|·ln 2 + ln(1/δ)) / 2n)        (Hoeffding; weaker everywhere, by Pinsker's inequality)

ê and e: the error on the n examples and on new ones from the same distribution; kl: the divergence between two coins.
Zhou et al. 2019 (arXiv 1804.05862) bound networks by compressed size this way, with KL = |h|·ln 2 − ln m(|h|) for a
prior m over lengths, and Lotfi et al. 2022 (arXiv 2211.13609) with about 2·log2|h| bits for the length
(`self_delimiting_bits`); a format that tells its own length needs neither. PAC-Bayes bounds for distributions over
networks carry a further term, as ln(2√n) / n, which a single network does not need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """The error on new data is at most `bound` with probability at least 1 − delta; `hoeffding` is the simpler, weaker
    form. Both are 1 at most, which says nothing. complexity: (|h|·ln 2 + ln(1/δ)) / n, nats an example."""

    train_error: float
    bits: float
    examples: int
    delta: float
    complexity: float
    bound: float
    hoeffding: float


def certificate(train_error: float, bits: float, examples: int, delta: float = 0.05) -> Certificate:
    """train_error: share of `examples` that the network gets wrong, in [0, 1]; bits: length of a prefix-free
    description of it. Errors may be any mean of losses in [0, 1]. Raises ValueError for anything out of its range."""
    if not (0 <= train_error <= 1 and 0 < delta < 1 and bits >= 0 and examples > 0):
        raise ValueError(f"no certificate for an error of {train_error}, {bits} bits, n = {examples}, δ = {delta}")
    complexity = (bits * math.log(2) + math.log(1 / delta)) / examples
    bound = kl_inverse(train_error, complexity)
    hoeffding = min(1.0, train_error + math.sqrt(complexity / 2))
    return Certificate(train_error, bits, examples, delta, complexity, bound, hoeffding)


def kl(q: float, p: float) -> float:
    """q·ln(q/p) + (1 − q)·ln((1 − q)/(1 − p)) in nats: the divergence of coins that show 1 with probability q and p."""
    if (q > 0 and p == 0) or (q < 1 and p == 1):
        return math.inf
    first = q * math.log(q / p) if q > 0 else 0.0
    second = (1 - q) * (math.log1p(-q) - math.log1p(-p)) if q < 1 else 0.0
    return max(0.0, first + second)


def kl_inverse(q: float, budget: float) -> float:
    """The largest p ≥ q with kl(q ‖ p) ≤ budget (nats), found by bisection; rounded up, so that a bound stays one."""
    low, high = q, 1.0
    if kl(q, high) <= budget:
        return high
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high
        if kl(q, middle) <= budget:
            low = middle
        else:
            high = middle


def self_delimiting_bits(bits: int) -> int:
    """Length after making any string of `bits` ≥ 1 prefix-free by telling its length first (Elias 1975, γ code)."""
    return bits + 2 * (bits.bit_length() - 1) + 1
