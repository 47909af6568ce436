"""Rate-distortion functions without a formula, computed to a stated precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NATS = math.log(2)


@dataclass(frozen=True)
class RatePoint:
    """A point of R(D) and the tangent there.

    distortion, rate: D and bits, both of a channel that exists, so R(D) ≤ rate. slope: −dR/dD ≥ 0 in bits.
    least: a number of bits that R(D) is certainly not below (Blahut 1972, theorem 6), and so for every other D′
    R(D′) ≥ least − slope·(D′ − D), since R is convex.
    """

    slope: float
    distortion: float
    rate: float
    least: float


def blahut_arimoto(
    source: np.ndarray, distortions: np.ndarray, slope: float, *, precision: float = 1e-4, iterations: int = 100_000
) -> RatePoint:
    """The point of R(D) whose slope is −`slope` (bits per unit of distortion), for a discrete source.

    source: probabilities [x]. distortions: d(x, y), [x, y]. Stops when `rate` and `least` are closer than `precision`.
    Blahut 1972, "Computation of channel capacity and rate-distortion functions"; Arimoto 1972.
    Raises ArithmeticError where `iterations` do not suffice.
    """
    source = np.asarray(source, np.float64)
    kernel = np.exp(-slope * NATS * np.asarray(distortions, np.float64))
    output = np.full(kernel.shape[1], 1 / kernel.shape[1])
    for _ in range(iterations):
        mass = kernel @ output
        factor = (source / mass) @ kernel  # by which the probability of each output grows
        rise = float(np.log(factor.max()))
        fall = float(np.sum(output * factor * np.log(np.maximum(factor, 1e-300))))
        if (rise - fall) / NATS < precision:
            break
        output = output * factor
    else:
        raise ArithmeticError(f"R(D) is not known to {precision} bits after {iterations} iterations")
    joint = (source / mass)[:, None] * kernel * output
    distortion = float(np.sum(joint * distortions))
    base = -slope * NATS * distortion - float(source @ np.log(mass))
    return RatePoint(slope, distortion, max(0.0, base - fall) / NATS, max(0.0, base - rise) / NATS)
