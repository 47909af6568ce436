"""What each index would cost an adaptive context coder, given all the others of its weight.

A count-based adaptive code takes as many bits in whatever order the symbols come, so that changing one symbol changes
its length by what that symbol costs given all others (exactly so for one context and the estimator of Krichevsky and
Trofimov 1981). So counts leave out the entry that is asked about. As in the coder, contexts are mixed in the logistic
domain (Mahoney 2005); their weights are fitted here, where the coder learns them on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SEEN = 5.0
"""A context that has seen nothing says what all entries say, as if it had seen so many of them."""

LEAST = 2.0**-14
"""No coder takes anything for less likely than that."""

FITTED = 1 << 17
"""Entries on which the weights of the contexts are fitted at most."""

KINDS, SUMS = 9, 24

PRIOR, FIRMNESS = (1.0, 0.3, 0.3, 0.15, 0.15), 20.0
"""Weights of base, row, column, neighbours and place before any entry was seen, and how firmly they are held to."""


class Scan(NamedTuple):
    """A weight as rows × channels × kernel, as the coder sees it; `width`: of a row of the kernel."""

    rows: int
    channels: int
    kernel: int
    width: int

    @property
    def columns(self) -> int:
        return self.channels * self.kernel


@dataclass(frozen=True)
class Rates:
    """Bits of each index of a weight [rows, columns]: `zero`, or `nonzero` and 1 for the sign, and then of |k| the
    entry |k| − 1 of row `kind` of `magnitude` [kinds, most]."""

    zero: np.ndarray
    nonzero: np.ndarray
    kind: np.ndarray
    magnitude: np.ndarray

    def bits(self, indices: np.ndarray) -> float:
        """Of all of them, each given the others."""
        size = np.abs(indices)
        sizes = self.magnitude[self.kind, np.maximum(size, 1) - 1]
        return float(np.where(size == 0, self.zero, self.nonzero + sizes).sum())


def rates(indices: np.ndarray, scan: Scan, most: int) -> Rates:
    """Of a weight that has these indices [rows, columns] by now, for indices from −most to most."""
    likely = _likely_nonzero(indices, scan).clip(LEAST, 1 - LEAST)
    kind = _kinds(np.abs(indices))
    return Rates(-np.log2(1 - likely), 1 - np.log2(likely), kind, _magnitudes(np.abs(indices), kind, most))


def _likely_nonzero(indices: np.ndarray, scan: Scan) -> np.ndarray:
    """Probability of each entry to be nonzero, given all others."""
    flags = (indices != 0).astype(np.float64)
    base = (flags.sum() - flags + 0.4) / (flags.size - 1 + 0.8)
    contexts = [_without(flags, flags.sum(1, keepdims=True), flags.shape[1], base)]
    contexts += [_without(flags, flags.sum(0, keepdims=True), flags.shape[0], base)]
    contexts += [_by_class(flags, _neighbours(indices, scan), SUMS, base)]
    if scan.kernel > 1:
        place = np.broadcast_to(np.tile(np.arange(scan.kernel), scan.channels), flags.shape)
        contexts += [_by_class(flags, place, scan.kernel, base)]
    return _mixed(flags, base, contexts)


def _without(flags: np.ndarray, total: np.ndarray, seen: np.ndarray | int, base: np.ndarray) -> np.ndarray:
    """The share of ones among all that were seen, but for the entry itself."""
    found: np.ndarray = (total - flags + SEEN * base) / (seen - 1 + SEEN)
    return found


def _by_class(flags: np.ndarray, classes: np.ndarray, count: int, base: np.ndarray) -> np.ndarray:
    flat = classes.reshape(-1)
    seen = np.bincount(flat, minlength=count)
    total = np.bincount(flat, flags.reshape(-1), minlength=count)
    return _without(flags, total[classes], seen[classes], base)


def _neighbours(indices: np.ndarray, scan: Scan) -> np.ndarray:
    """How large the entries around are that come before, in 24 classes, about logarithmic."""
    reach = max(scan.kernel, 2)
    cells = np.pad(np.minimum(np.abs(indices), 255), ((2, 0), (reach, 1)))

    def at(up: int, left: int) -> np.ndarray:
        return cells[2 - up : len(cells) - up, reach - left : reach - left + scan.columns]

    total = 2 * at(0, 1) + at(0, 2) + 2 * at(1, 0) + at(2, 0) + at(1, 1) + at(1, -1)
    if scan.kernel > 1:
        total = total + 2 * at(0, scan.kernel) + at(0, min(scan.width, reach))
    octave = np.floor(np.log2(np.maximum(total, 1))).astype(np.int64)
    level = np.where(total < 4, total, 2 * octave + (total >> np.maximum(octave - 1, 0)) % 2)
    found: np.ndarray = np.minimum(level, SUMS - 1)
    return found


def _mixed(flags: np.ndarray, base: np.ndarray, contexts: Sequence[np.ndarray]) -> np.ndarray:
    """Σ w · logit, by Newton's method on the code length, around the weights that the coder begins with."""
    first = _logit(base)
    features = np.stack([first, *(_logit(context) - first for context in contexts)], -1).reshape(flags.size, -1)
    prior = np.array(PRIOR[: features.shape[1]])
    stride = -(-flags.size // FITTED)
    x, y = features[::stride], flags.reshape(-1)[::stride]
    weights = prior
    for _ in range(4):
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - y) + FIRMNESS * (weights - prior)
        bend = (x * (p * (1 - p))[:, None]).T @ x + FIRMNESS * np.eye(len(prior))
        weights = weights - np.linalg.solve(bend, slope)
    return _sigmoid(features @ weights).reshape(flags.shape)


def _logit(p: np.ndarray) -> np.ndarray:
    p = p.clip(LEAST, 1 - LEAST)
    found: np.ndarray = np.log(p / (1 - p))
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-x.clip(-30, 30)))
    return found


def _kinds(sizes: np.ndarray) -> np.ndarray:
    """Which of nine distributions a magnitude has, by the mean magnitudes of row and column, uint8 [rows, columns]."""
    flags = sizes != 0
    overall = max(float(sizes.sum()) / max(int(flags.sum()), 1), 1.0)

    def mean(axis: int) -> np.ndarray:
        found: np.ndarray = (sizes.sum(axis, keepdims=True) + SEEN * overall) / (flags.sum(axis, keepdims=True) + SEEN)
        return found / overall

    level = 3 * np.log2(mean(1) * mean(0)) + KINDS // 2
    kinds: np.ndarray = np.rint(level).clip(0, KINDS - 1).astype(np.uint8)
    return kinds


def _magnitudes(sizes: np.ndarray, kind: np.ndarray, most: int) -> np.ndarray:
    """Bits of 1, …, most in each kind: of the octave there, and then of the number within the octave, anywhere."""
    numbers = np.arange(1, most + 1)
    octaves = np.floor(np.log2(numbers)).astype(np.int64)
    there = sizes > 0
    counts = np.zeros((KINDS, most))
    np.add.at(counts, (kind[there], np.minimum(sizes[there], most) - 1), 1)
    by_octave = np.zeros((KINDS, octaves[-1] + 1))
    np.add.at(by_octave.T, octaves, counts.T)
    halves = 0.5 ** (1 + np.arange(octaves[-1] + 1))
    halves[-1] *= 2
    anywhere = (by_octave.sum(0) + 2 * halves) / (by_octave.sum() + 2)
    octave = (by_octave + SEEN * anywhere) / (by_octave.sum(1, keepdims=True) + SEEN)
    within = (counts.sum(0) + SEEN * 0.5**octaves) / (by_octave.sum(0)[octaves] + SEEN)
    return np.asarray(-np.log2(octave[:, octaves]) - np.log2(within))
