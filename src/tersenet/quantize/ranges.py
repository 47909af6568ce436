"""Which grid of equal steps a weight is rounded to: the range that it covers, and the steps and zero point of that."""

from __future__ import annotations

from typing import Literal

import torch

Scheme = Literal["symmetric", "affine"]
Range = Literal["minmax", "percentile", "mse", "entropy", "lsq"]

FRACTIONS = 40
"""Of the full range, among which `mse` and `entropy` choose."""

BINS = 2048
"""Of the histogram of magnitudes that `entropy` looks at."""


def grid(
    entries: torch.Tensor, bits: int, scheme: Scheme, how: Range, percentile: float = 99.9
) -> tuple[torch.Tensor, torch.Tensor]:
    """(step, low) of each row of `entries` [rows, n], not empty: step [rows] positive, low int32 [rows].

    symmetric: n from −2^(b−1) to 2^(b−1) − 1. affine: 2^b numbers that cover the range, widened to hold zero.
    minmax: the range is that of the entries. percentile: the lowest and highest share outside of it are cut off. mse:
    of fractions of the full range, that with the least squared error. entropy: that whose rounded magnitudes have the
    least Kullback–Leibler divergence to the histogram of all but zeros (Migacz 2017, "8-bit inference with TensorRT"),
    which every grid holds: the many that ReLU makes would outweigh all that is cut off. lsq: a
    step of 2·mean |w| / √high (Esser et al. 2020, arXiv 1902.08153, §2.1), symmetric only.
    """
    entries = entries.float()
    if how == "lsq":
        step = 2 * entries.abs().mean(1) / max(2 ** (bits - 1) - 1, 1) ** 0.5
        return _positive(step), _lows(step, bits)
    low, high = entries.amin(1).clamp(max=0), entries.amax(1).clamp(min=0)
    if how == "percentile":
        low, high = _cut(entries, percentile)
    elif how in ("mse", "entropy"):
        one_sided = scheme == "affine" and not bool(low.any())
        fraction = (
            _least_error(entries, low, high, bits, scheme)
            if how == "mse"
            else _least_divergence(entries, bits + one_sided)
        )
        low, high = low * fraction, high * fraction
    return _steps(low, high, bits, scheme)


def _steps(low: torch.Tensor, high: torch.Tensor, bits: int, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Step and low of ranges [rows] that hold zero."""
    if scheme == "symmetric":
        most = 2 ** (bits - 1)
        step = torch.maximum(high / max(most - 1, 1), -low / most)
        return _positive(step), _lows(step, bits)
    step = _positive((high - low) / (2**bits - 1))
    return step, (low / step).round().to(torch.int32)


def _lows(step: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.full_like(step, -(2 ** (bits - 1)), dtype=torch.int32)


def _positive(step: torch.Tensor) -> torch.Tensor:
    """Of a row of zeros any step will do."""
    return torch.where(step > 0, step, torch.ones_like(step))


def _cut(entries: torch.Tensor, percentile: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The entries nearest to the two percentiles, widened to hold zero."""
    size = entries.shape[1]
    place = min(max(round(percentile / 100 * size), 1), size)
    high = entries.kthvalue(place, dim=1).values
    low = -(-entries).kthvalue(place, dim=1).values
    return low.clamp(max=0), high.clamp(min=0)


def _least_error(
    entries: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int, scheme: Scheme
) -> torch.Tensor:
    """The fraction of the range with the least squared error, [rows]."""
    best, chosen = torch.full_like(low, torch.inf), torch.ones_like(low)
    for count in range(FRACTIONS, 0, -1):
        fraction = count / FRACTIONS
        step, least = _steps(low * fraction, high * fraction, bits, scheme)
        wide, bottom = step[:, None], least[:, None]
        gap = (entries / wide).clamp_(bottom, bottom + (2**bits - 1)).round_().mul_(wide).sub_(entries)
        error = torch.linalg.vector_norm(gap, dim=1)
        chosen = torch.where(error < best, fraction, chosen)
        best = torch.minimum(error, best)
    return chosen


def _least_divergence(entries: torch.Tensor, bits: int) -> torch.Tensor:
    """The fraction of the largest magnitude with the least divergence, [rows]."""
    return torch.tensor([_fraction(row, bits) for row in entries.abs()], device=entries.device)


def _fraction(magnitudes: torch.Tensor, bits: int) -> float:
    largest = float(magnitudes.max())
    levels = max(2 ** (bits - 1), 1)
    if largest == 0:
        return 1.0
    counts = torch.histc(magnitudes[magnitudes > 0], BINS, 0, largest).double().cpu()  # zero is on every grid
    best, chosen = float("inf"), 1.0
    for count in range(FRACTIONS, 0, -1):
        kept = BINS * count // FRACTIONS
        if kept < levels:
            break
        found = _divergence(counts, kept, levels)
        if found < best:
            best, chosen = found, kept / BINS
    return chosen


def _divergence(counts: torch.Tensor, kept: int, levels: int) -> float:
    """Σ p log(p/q): p is the histogram cut at `kept` bins, what lies beyond in the last; q spreads each level's mass
    evenly over those of its bins that hold any."""
    p = counts[:kept].clone()
    p[-1] += counts[kept:].sum()
    level = torch.arange(kept) * levels // kept
    held = counts[:kept] > 0
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, counts[:kept])
    number = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, held.double())
    q = torch.where(held, mass[level] / number[level].clamp(min=1), 0)
    p, q = p / p.sum(), q / q.sum().clamp(min=1e-300)
    both = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q == 0)].sum())
    return float((p[both] * (p[both] / q[both]).log()).sum()) + 1e3 * lost
