"""k-means on a line against all partitions (tiny), scikit-learn, and closed forms."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from tersenet.quantize.kmeans import STARTS, Points, assign, cluster, fits_exact, inertia

tiny = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=9).map(np.array)


def generator():
    return np.random.default_rng(0)


def best_of_all_partitions(values: np.ndarray, k: int) -> float:
    """Least Σ (value − mean of its interval)² over all ways to cut the sorted values into at most k intervals."""
    ordered = np.sort(values)
    best = np.inf
    for cuts in itertools.chain.from_iterable(
        itertools.combinations(range(1, len(ordered)), number) for number in range(min(k, len(ordered)))
    ):
        parts = np.split(ordered, cuts)
        best = min(best, sum(((part - part.mean()) ** 2).sum() for part in parts))
    return float(best)


@settings(deadline=None)
@given(tiny, st.integers(1, 5))
def test_exact_is_the_best_of_all_partitions(values, k):
    points = Points.of(values)
    centroids = cluster(points, k, "exact", generator())
    assert inertia(points, centroids) == pytest.approx(best_of_all_partitions(values, k), abs=1e-9)


@settings(deadline=None)
@given(tiny, st.integers(1, 5), st.sampled_from(list(STARTS)))
def test_centroids_are_the_means_of_what_is_nearest_to_them(values, k, start):
    points = Points.of(values)
    centroids = cluster(points, k, start, generator())
    assert 1 <= len(centroids) <= k and (np.diff(centroids) > 0).all()
    codes = assign(values, centroids)
    assert set(codes) == set(range(len(centroids))), "no centroid without members"
    for code, centroid in enumerate(centroids):
        assert values[codes == code].mean() == pytest.approx(centroid, abs=1e-9)
    distances = np.abs(values[:, None] - centroids)
    np.testing.assert_allclose(distances[np.arange(len(values)), codes], distances.min(1), atol=1e-9)
    assert inertia(points, centroids) >= best_of_all_partitions(values, k) - 1e-9


@pytest.mark.parametrize("k", [2, 8, 32])
def test_against_scikit_learn(k):
    values = np.random.default_rng(1).laplace(size=3000)
    points = Points.of(values)
    for start in ("linear", "density", "random"):
        initial = STARTS[start](points, k, generator())
        theirs = KMeans(k, init=initial[:, None], n_init=1, tol=0, max_iter=1000).fit(values[:, None])
        ours = cluster(points, k, start, generator(), iterations=1000)
        assert inertia(points, cluster(points, k, "exact", generator())) <= theirs.inertia_ * (1 + 1e-12)
        if len(ours) < k:  # scikit-learn moves an empty cluster to the farthest value, Deep Compression does not
            assert start == "linear" and k == 32
            continue
        assert inertia(points, ours) == pytest.approx(theirs.inertia_, rel=1e-9)
        np.testing.assert_allclose(ours, np.sort(theirs.cluster_centers_.ravel()), rtol=1e-6)


def test_starts_by_hand():
    points = Points.of(np.array([0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 8.0]))
    np.testing.assert_allclose(STARTS["linear"](points, 5, generator()), [0, 2, 4, 6, 8])
    # quantiles 1/8, 3/8, 5/8, 7/8 of eight values: the entries of rank 1, 3, 5, 7
    np.testing.assert_allclose(STARTS["density"](points, 4, generator()), [1, 3, 8])
    drawn = STARTS["random"](points, 6, generator())
    np.testing.assert_allclose(drawn, [0, 1, 2, 3, 4, 8])


def test_random_start_draws_observations_not_values():
    points = Points.of(np.array([0.0] * 999 + [1.0, 2.0, 3.0]))
    drawn = [STARTS["random"](points, 1, np.random.default_rng(seed))[0] for seed in range(200)]
    assert drawn.count(0.0) >= 195
    assert all(len(STARTS["random"](points, 3, np.random.default_rng(seed))) == 3 for seed in range(5))


def test_few_values_are_kept_as_they_are():
    values = np.array([0.1, -0.3, 0.1, 0.7])
    for start in STARTS:
        assert cluster(Points.of(values), 4, start, generator()).tolist() == [-0.3, 0.1, 0.7]


def test_empty_clusters_are_dropped():
    values = np.array([0.0, 0.1, 0.2, 100.0, 100.1])
    centroids = cluster(Points.of(values), 4, "linear", generator())
    np.testing.assert_allclose(centroids, [0.1, 100.05])


def test_equal_values_stay_together_and_repeat():
    values = np.repeat([1.0, 2.0, 5.0], [1000, 3, 1])
    centroids = cluster(Points.of(values), 2, "exact", generator())
    np.testing.assert_allclose(centroids, [1006 / 1003, 5.0])
    again = cluster(Points.of(values[::-1].copy()), 2, "exact", generator())
    assert np.array_equal(centroids, again)


def test_memory_of_exact_is_bounded():
    assert fits_exact(Points.of(np.arange(1000.0)), 256)
    large = Points.of(np.arange(300_000.0))
    assert fits_exact(large, 64) and not fits_exact(large, 256)


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Points.of(np.array([1.0, np.inf]))


@pytest.mark.parametrize("k", [2, 8])
def test_weights_are_sample_weights_of_scikit_learn(k):
    generator_ = np.random.default_rng(4)
    values, weights = generator_.laplace(size=500), generator_.gamma(0.3, size=500)
    points = Points.of(values, weights)
    initial = STARTS["density"](points, k, generator())
    reference = KMeans(k, init=initial[:, None], n_init=1, max_iter=300, tol=0).fit(
        values[:, None], sample_weight=weights
    )
    ours = cluster(points, k, "density", generator())
    np.testing.assert_allclose(ours, np.sort(reference.cluster_centers_[:, 0]), atol=1e-9)
    plain = cluster(Points.of(values), k, "density", generator())
    assert np.abs(ours - plain).max() > 1e-3


def test_equal_weights_change_nothing():
    values = np.random.default_rng(5).normal(size=200)
    for start in ("linear", "density"):
        ours = cluster(Points.of(values, np.full(200, 0.25)), 5, start, generator())
        np.testing.assert_allclose(ours, cluster(Points.of(values), 5, start, generator()), atol=1e-12)
