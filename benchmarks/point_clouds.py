"""Clouds of points to measure on: a synthetic scan of a street by a turning LiDAR, and sites taken at random."""

from __future__ import annotations

import numpy as np

BEAMS, AZIMUTHS = 64, 2048
HIGHEST, LOWEST = 2.0, -24.8
"""Degrees, of the first beam and the last: those of a common scanner of 64 beams."""
HEIGHT, REACH, ERROR = 1.73, 70.0, 0.02
"""Metres: of the sensor above the ground, as far as it sees, and the deviation of a measured distance."""
THINGS = {  # how many, how far from the middle of the street, and their smallest and largest sizes; metres
    "car": (30, (3, 8), (3.8, 1.6, 1.4), (5.2, 2.0, 1.9)),
    "house": (14, (14, 22), (8, 8, 4), (20, 10, 12)),
    "pole": (40, (8, 12), (0.2, 0.2, 4), (0.4, 0.4, 7)),
}
LENGTH = 60.0
"""Metres of street on either side of the sensor."""


def scan(rng: np.random.Generator) -> np.ndarray:
    """One turn of the scanner: float64 [points, 3], metres from the sensor, at most 64 · 2048 points.

    Each ray ends at the first thing it meets, which is the flat ground or one of the boxes along the street, upright
    and in its direction; rays that meet nothing within reach give no point.
    """
    rays = directions()
    down = rays[:, 2] < 0
    distance = np.full(len(rays), np.inf)
    distance[down] = -HEIGHT / rays[down, 2]
    for low, high in boxes(rng):
        distance = np.minimum(distance, entries(rays, low, high))
    seen = distance < REACH
    return rays[seen] * (distance[seen] + rng.normal(0, ERROR, int(seen.sum())))[:, None]


def directions() -> np.ndarray:
    """Unit vectors of all rays, float64 [beams · azimuths, 3]; x is along the street and z up."""
    turn = (np.arange(AZIMUTHS) + 0.5) * 2 * np.pi / AZIMUTHS  # no ray is parallel to a side
    tilt = np.radians(np.linspace(HIGHEST, LOWEST, BEAMS))[:, None]
    parts = np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt) + 0 * turn
    return np.stack(parts, -1).reshape(-1, 3)


def boxes(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lowest and highest corners, metres from the sensor."""
    found = []
    for count, aside, least, most in THINGS.values():
        for _ in range(count):
            half = rng.uniform(least, most) * [0.5, 0.5, 1]
            foot = np.array([rng.uniform(-LENGTH, LENGTH), rng.choice([-1, 1]) * rng.uniform(*aside), -HEIGHT])
            found.append((foot - half * [1, 1, 0], foot + half))
    return found


def entries(rays: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far rays from the origin go until they enter a box; infinite where they miss it or begin inside."""
    first, second = low / rays, high / rays
    near, far = np.minimum(first, second).max(1), np.maximum(first, second).min(1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def voxels(points: np.ndarray, size: float, within: float = np.inf) -> np.ndarray:
    """The sites of a grid of `size` metres that hold points not further than `within` from the sensor on each axis, in
    order: int64 [sites, 1 + axes], with batch index 0."""
    near = points[(np.abs(points) < within).all(1)]
    return _batch(np.unique(np.floor(near / size).astype(np.int64), axis=0))


def uniform(rng: np.random.Generator, side: int, density: float) -> np.ndarray:
    """Sites of a cube of `side`³ taken at random, all with the same chance, in order: int64 [sites, 4]."""
    taken = np.sort(rng.choice(side**3, round(density * side**3), replace=False))
    return _batch(np.stack(np.unravel_index(taken, (side,) * 3), 1))


def _batch(sites: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((len(sites), 1), np.int64), sites], 1)
