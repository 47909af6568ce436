"""k-means on a line: clusters are intervals there, so after one sort every step is a few binary searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import kmeans1d
import numpy as np

from tersenet.core.registry import Registry


@dataclass(frozen=True)
class Points:
    """Different values in rising order, float64 [m], how much each counts [m] (how often it occurs, int64; or a sum of
    weights, float64), and their running totals."""

    values: np.ndarray
    counts: np.ndarray
    total_counts: np.ndarray  # [m + 1], starts at 0
    total_sums: np.ndarray  # [m + 1], starts at 0

    @classmethod
    def of(cls, entries: np.ndarray, weights: np.ndarray | None = None) -> Points:
        """`weights`: not negative, of the shape of `entries`. Raises ValueError for a value that is not finite."""
        if not np.isfinite(entries).all():
            raise ValueError("values must be finite")
        values, places, counts = np.unique(
            entries.astype(np.float64).reshape(-1), return_inverse=True, return_counts=True
        )
        if weights is not None:
            counts = np.bincount(places.reshape(-1), weights.astype(np.float64).reshape(-1), len(values))
        return cls(values, counts, _running(counts), _running(values * counts))

    @property
    def size(self) -> float:
        return self.total_counts[-1]  # type: ignore[no-any-return]


Start = Callable[[Points, int, np.random.Generator], np.ndarray]
"""(points, k, generator) → at most k centroids in rising order."""

STARTS: Registry[Start] = Registry("init")

EXACT_CELLS = 1 << 26
"""kmeans1d keeps two tables of k × n eight-byte cells: one GiB at this many."""


@STARTS.register("linear")
def linear(points: Points, k: int, generator: np.random.Generator) -> np.ndarray:
    """Equally spaced from the smallest to the largest value (Deep Compression, §3.2)."""
    return np.linspace(points.values[0], points.values[-1], k)


@STARTS.register("density")
def density(points: Points, k: int, generator: np.random.Generator) -> np.ndarray:
    """Equally spaced on the cumulative distribution: quantiles (i + ½)/k (Deep Compression, §3.2)."""
    ranks = (np.arange(k) + 0.5) / k * points.size
    return np.unique(points.values[np.searchsorted(points.total_counts, ranks, side="right") - 1])


@STARTS.register("random")
def random(points: Points, k: int, generator: np.random.Generator) -> np.ndarray:
    """Forgy: k of the observations, drawn without replacement until k different values are found."""
    order = generator.permutation(int(points.size))
    drawn = np.searchsorted(points.total_counts, order, side="right") - 1
    _, first = np.unique(drawn, return_index=True)
    return np.sort(points.values[drawn[np.sort(first)[:k]]])


@STARTS.register("exact")
def exact(points: Points, k: int, generator: np.random.Generator) -> np.ndarray:
    """The optimum of all partitions (Wu 1991; Grønlund et al. 2017, arXiv 1701.07204), in O(k·n) time and memory."""
    return np.unique(kmeans1d.cluster(np.repeat(points.values, points.counts), k).centroids)


def fits_exact(points: Points, k: int) -> bool:
    """Whether `exact` stays within about one GiB."""
    return k * points.size <= EXACT_CELLS


def cluster(points: Points, k: int, start: str, generator: np.random.Generator, iterations: int = 300) -> np.ndarray:
    """At most k centroids in rising order, each the mean of the values nearest to it.

    Lloyd's steps follow the start until nothing changes or `iterations` are over. A centroid that has lost all its
    values keeps its place, since values may come back to it, and is dropped at the end. With at most k different
    values, the centroids are these values.
    """
    if len(points.values) <= k:
        return points.values
    centroids = STARTS[start](points, k, generator)
    edges = _edges(points, centroids)
    for _ in range(iterations):
        centroids = np.where(np.diff(edges) > 0, _means(points, edges), centroids)
        moved = _edges(points, centroids)
        if np.array_equal(moved, edges):
            break
        edges = moved
    return _means(points, np.unique(edges))


def assign(entries: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each entry, int64 of the shape of `entries`; halfway goes to the larger one."""
    return np.searchsorted(_middles(centroids), entries.astype(np.float64), side="right")


def inertia(points: Points, centroids: np.ndarray) -> float:
    """Σ (value − nearest centroid)² over all entries."""
    nearest = centroids[assign(points.values, centroids)]
    return float((points.counts * (points.values - nearest) ** 2).sum())


def _edges(points: Points, centroids: np.ndarray) -> np.ndarray:
    """Where each centroid's interval of values begins, and the end: [k + 1]."""
    inner = np.searchsorted(points.values, _middles(centroids), side="left")
    return np.concatenate([[0], inner, [len(points.values)]])


def _means(points: Points, edges: np.ndarray) -> np.ndarray:
    counts = np.diff(points.total_counts[edges])
    means: np.ndarray = np.diff(points.total_sums[edges]) / np.where(counts > 0, counts, 1)
    return means


def _middles(centroids: np.ndarray) -> np.ndarray:
    middles: np.ndarray = (centroids[1:] + centroids[:-1]) / 2
    return middles


def _running(row: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(row)])
