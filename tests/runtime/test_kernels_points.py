"""Convolution on clouds of points: the dense one at the sites that count, whatever the order and the grouping."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersenet.core.errors import DataError, ModelError
from tersenet.forms import Shared, decode
from tersenet.runtime.kernels import sparse_conv
from tersenet.runtime.kernels.coordinates import Box, marks_of, number, table_of
from tersenet.runtime.kernels.kernel_map import KernelMap, map_strided, map_submanifold
from tersenet.runtime.kernels.sparse_conv import groups_of, pack_sparse_conv

SIZE, BATCH = 6, 2
DENSE = {2: nn.functional.conv2d, 3: nn.functional.conv3d}


def cloud(axes: int, density: float, seed: int) -> np.ndarray:
    """Points in BATCH grids of SIZE sites along each axis, in random order: int64 [points, 1 + axes]."""
    rng = np.random.default_rng(seed)
    sites = np.argwhere(rng.random((BATCH, *(SIZE,) * axes)) < density)
    return rng.permutation(sites)


def whole(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Small whole numbers, whose sums of products are exact in float32 in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def grid(coordinates: np.ndarray, x: np.ndarray) -> torch.Tensor:
    """Features on the dense grid: [batch, channels, …]."""
    out = np.zeros((BATCH, *(SIZE,) * (coordinates.shape[1] - 1), x.shape[1]), np.float32)
    out[tuple(coordinates.T)] = x
    return torch.from_numpy(np.moveaxis(out, -1, 1).copy())


@st.composite
def windows(draw: st.DrawFn, odd: bool) -> dict[str, tuple[int, ...]]:
    axes = draw(st.sampled_from([2, 3]))
    some = lambda numbers: draw(st.tuples(*[st.sampled_from(numbers)] * axes))  # noqa: E731
    if odd:
        return {"kernel": some([1, 3, 5]), "dilation": some([1, 2])}
    return {"kernel": some([1, 2, 3]), "stride": some([1, 2, 3]), "padding": some([0, 1, 2]), "dilation": some([1, 2])}


clouds = {"density": st.sampled_from([0.0, 0.02, 0.3, 1.0]), "seed": st.integers(0, 99)}


@settings(max_examples=40, deadline=None)
@given(window=windows(odd=True), **clouds)
def test_submanifold_is_the_dense_one_at_the_points(
    window: dict[str, tuple[int, ...]], density: float, seed: int
) -> None:
    kernel, dilation = window["kernel"], window["dilation"]
    coordinates = cloud(len(kernel), density, seed)
    x, weight = whole((len(coordinates), 3), seed), whole((5, 3, *kernel), seed)
    padding = tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
    dense = DENSE[len(kernel)](grid(coordinates, x), torch.from_numpy(weight), None, 1, padding, dilation)
    maps = map_submanifold(coordinates, kernel, dilation)
    found = pack_sparse_conv(weight)(x, maps)
    assert found.dtype == np.float32 and np.array_equal(maps.sites, coordinates)
    assert np.array_equal(found, np.moveaxis(dense.numpy(), 1, -1)[tuple(coordinates.T)])


@settings(max_examples=40, deadline=None)
@given(window=windows(odd=False), **clouds)
def test_strided_is_the_dense_one_wherever_a_point_reaches(
    window: dict[str, tuple[int, ...]], density: float, seed: int
) -> None:
    kernel, stride, padding, dilation = (window[name] for name in ("kernel", "stride", "padding", "dilation"))
    coordinates = cloud(len(kernel), density, seed)
    x, weight = whole((len(coordinates), 3), seed), whole((5, 3, *kernel), seed)
    # Free sites around the grid, so that the dense result begins `ahead` sites before the origin and holds all of it.
    ahead, weights = 6, torch.from_numpy(weight)
    borders = [ahead * s for s in reversed(stride) for _ in range(2)]
    wide, occupied = (nn.functional.pad(grid(coordinates, f), borders) for f in (x, np.ones((len(x), 1), np.float32)))
    dense = DENSE[len(kernel)](wide, weights, None, stride, padding, dilation)
    reached = DENSE[len(kernel)](occupied, torch.ones(1, 1, *kernel), None, stride, padding, dilation)[:, 0] > 0
    maps = map_strided(coordinates, kernel, stride, padding, dilation)
    places = maps.sites + np.array([0, *[ahead] * len(kernel)])
    assert sorted(places.tolist()) == np.argwhere(reached.numpy()).tolist()
    result = torch.zeros_like(dense)
    result.movedim(1, -1)[tuple(places.T)] = torch.from_numpy(pack_sparse_conv(weight)(x, maps))
    assert torch.equal(result, dense)


def brute_force(coordinates: np.ndarray, kernel: tuple[int, ...]) -> set[tuple[int, int, int]]:
    """(tap, point, point) by looking at all pairs of points."""
    taps = np.array(list(product(*(range(k) for k in kernel)))) - [k // 2 for k in kernel]
    gaps = coordinates[None] - coordinates[:, None]
    return {
        (tap, i, j)
        for tap, offset in enumerate(taps)
        for j, i in np.argwhere((gaps == [0, *offset]).all(2)).tolist()
        if tap != len(taps) // 2
    }


def pairs(maps: KernelMap) -> list[tuple[int, int, int]]:
    taps = np.repeat(np.arange(len(maps.sizes)), maps.sizes)
    return list(zip(taps.tolist(), maps.inputs.tolist(), maps.outputs.tolist(), strict=True))


@pytest.mark.parametrize("far", [0, -7, 1 << 19, -(1 << 39)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_pairs_are_those_of_brute_force_wherever_the_cloud_is(far: int, dtype: type) -> None:
    coordinates = cloud(3, 0.3, 1)
    coordinates[:, 1:] += far if dtype == np.int64 else far % 1000 - 500
    maps = map_submanifold(coordinates.astype(dtype), (3, 3, 3))
    found = pairs(maps)
    assert len(found) == len(set(found)) and set(found) == brute_force(coordinates, (3, 3, 3))


@settings(max_examples=40, deadline=None)
@given(scale=st.sampled_from([1, 3, 50, 1 << 13]), count=st.integers(1, 300), seed=st.integers(0, 999))
def test_pairs_are_those_of_brute_force_however_far_apart_points_are(scale: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lumps = rng.integers(-scale, scale + 1, (5, 4))[rng.integers(0, 5, count)]
    coordinates = np.unique(lumps + rng.integers(-2, 3, (count, 4)), axis=0)
    found = pairs(map_submanifold(rng.permutation(coordinates), (3, 3, 3)))
    assert len(found) == len(brute_force(coordinates, (3, 3, 3)))


def test_sites_of_two_lines_that_are_neighbours_as_numbers_are_none_on_the_grid() -> None:
    """The end of one line and the start of the next, and so for planes and grids."""
    edges = np.array(list(product((0, 1, 2), (0, 4), (0, 4), (0, 4))))
    for kernel in ((3, 3, 3), (5, 5, 5), (7, 7, 7)):
        assert set(pairs(map_submanifold(edges, kernel))) == brute_force(edges, kernel)
    assert len(map_submanifold(edges, (7, 7, 7)).inputs) == 0 and len(map_submanifold(edges, (9, 9, 9)).inputs) > 0


@settings(max_examples=25, deadline=None)
@given(strided=st.booleans(), **clouds)
def test_permuted_points_give_permuted_features(strided: bool, density: float, seed: int) -> None:
    coordinates = cloud(3, density, seed)
    x, held = whole((len(coordinates), 4), seed), pack_sparse_conv(whole((2, 4, 3, 3, 3), seed))
    order = np.random.default_rng(seed + 1).permutation(len(x))

    def features(coordinates: np.ndarray, x: np.ndarray) -> dict[tuple[int, ...], list[float]]:
        maps = map_strided(coordinates, (3, 3, 3), (2, 2, 2)) if strided else map_submanifold(coordinates, (3, 3, 3))
        return dict(zip(map(tuple, maps.sites.tolist()), held(x, maps).tolist(), strict=True))

    assert features(coordinates, x) == features(coordinates[order], x[order])


@settings(max_examples=40, deadline=None)
@given(
    tolerance=st.sampled_from([-1.0, 0.0, 0.1, 0.5, 1.0]),
    cache=st.sampled_from([3_000, 30_000, 1 << 21]),
    threads=st.sampled_from([1, 3]),
    **clouds,
)
def test_grouping_and_threads_never_change_it(
    tolerance: float, cache: int, threads: int, density: float, seed: int
) -> None:
    coordinates = cloud(3, density, seed)
    x, held = whole((len(coordinates), 40), seed), pack_sparse_conv(whole((33, 40, 3, 3, 3), seed))
    expected = held(x, map_submanifold(coordinates, (3, 3, 3)), -1)
    before = sparse_conv.CACHE, torch.get_num_threads()
    try:
        sparse_conv.CACHE = cache
        torch.set_num_threads(threads)
        found = held(x, map_submanifold(coordinates, (3, 3, 3)), tolerance)
    finally:
        sparse_conv.CACHE = before[0]
        torch.set_num_threads(before[1])
    assert np.array_equal(found, expected)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=27),
    tolerance=st.sampled_from([-1.0, 0.0, 0.1, 0.25, 0.5, 1.0]),
    most=st.sampled_from([1, 40, 1000]),
)
def test_groups_hold_each_tap_once_and_padding_within_the_tolerance(
    sizes: list[int], tolerance: float, most: int
) -> None:
    groups = groups_of(sizes, tolerance, most)
    assert sorted(tap for group in groups for tap in group) == [tap for tap, size in enumerate(sizes) if size]
    for group in groups:
        own = [sizes[tap] for tap in group]
        assert len(own) == 1 or (sum(own) >= (1 - tolerance) * max(own) * len(own) and max(own) < most)
    if tolerance == 0 and most == 1000:
        assert len(groups) == len({size for size in sizes if size})
    if tolerance == 1 and most == 1000:
        assert len(groups) == any(sizes)


def test_a_worked_example_of_groups() -> None:
    """100 + 95 pad 2.5 %; with 60 it would be 15 %. 60 + 58 + 50 pad 6.7 %."""
    assert groups_of([50, 100, 0, 60, 95, 58, 3], 0.1, 1000) == [[1, 4], [3, 5, 0], [6]]
    assert groups_of([50, 100, 0, 60, 95, 58, 3], 0.1, 60) == [[1], [4], [3], [5, 0], [6]]


def test_opposite_taps_share_a_product_without_padding() -> None:
    maps = map_submanifold(cloud(3, 0.4, 0), (3, 3, 3))
    assert maps.own == 13 and maps.sizes[13] == 0 and np.array_equal(maps.sizes, maps.sizes[::-1])
    assert all(26 - tap in group for group in groups_of(maps.sizes, 0, 1000) for tap in group)


def test_one_point_and_none() -> None:
    weight = whole((2, 3, 3, 3), 0)
    held = pack_sparse_conv(weight)
    one, x = np.array([[4, -9, 7]]), whole((1, 3), 1)
    assert np.array_equal(held(x, map_submanifold(one, (3, 3))), x @ weight[:, :, 1, 1].T)
    maps = map_strided(one, (3, 3), (2, 2), (1, 1))
    # 7 + 1 is the first tap of site 4 and the last of 3; −9 + 1 the first of −4 and the last of −5.
    expected = {(4, -4, 4): (0, 0), (4, -5, 4): (2, 0), (4, -4, 3): (0, 2), (4, -5, 3): (2, 2)}
    found = dict(zip(map(tuple, maps.sites.tolist()), held(x, maps), strict=True))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[at], (x @ weight[:, :, i, j].T)[0]) for at, (i, j) in expected.items())
    none = np.zeros((0, 3), np.int32)
    for maps in (map_submanifold(none, (3, 3)), map_strided(none, (2, 2), (2, 2))):
        assert held.weight.shape == (9, 3, 2) and maps.sites.shape == (0, 3)
    assert held(np.zeros((0, 3), np.float32), map_submanifold(none, (3, 3))).shape == (0, 2)


def test_a_code_is_convolved_as_its_weight() -> None:
    code = Shared(torch.randint(0, 4, (5, 3, 3, 3)), 4, zero=False).encode(torch.randn(4))
    maps = map_submanifold(cloud(2, 0.5, 0), (3, 3))
    x = np.random.default_rng(0).standard_normal((maps.points, 3)).astype(np.float32)
    assert np.array_equal(
        pack_sparse_conv(code)(torch.from_numpy(x), maps), pack_sparse_conv(decode(code).numpy())(x, maps)
    )


def test_marks_of_all_keys_are_set_and_most_others_are_not() -> None:
    keys = np.random.default_rng(0).integers(0, 1 << 50, 5000)
    marks = marks_of(keys)
    assert sum(int(word).bit_count() for word in marks) <= 5000 and marks.size * 64 >= 16 * 5000


def test_a_table_finds_every_key() -> None:
    coordinates = np.argwhere(np.ones((3, 12, 12, 12)))
    box = Box.around(coordinates)
    keys = number(coordinates, box.low, box.steps)
    slots = table_of(keys, coordinates)
    assert np.array_equal(box.sites(keys), coordinates) and sorted(slots[slots >= 0]) == list(range(len(keys)))
    assert 2 * len(keys) < len(slots)


def test_wrong_clouds_are_refused() -> None:
    points = np.array([[0, 1, 2, 3], [0, 5, 5, 5], [0, 1, 2, 3]])
    for maker in (map_submanifold, map_strided):
        with pytest.raises(
            DataError, match=r"points 0 and 2 have the same batch index and coordinates, \[0, 1, 2, 3\]"
        ):
            maker(points, (3, 3, 3))
        with pytest.raises(DataError, match="int32 or int64, not float64"):
            maker(points[:2] / 2, (3, 3, 3))
        with pytest.raises(DataError, match=r"\[points, 3\].*not \[2, 4\]"):
            maker(points[:2], (3, 3))
        with pytest.raises(DataError, match=r"beyond ±2\^40"):
            maker(np.array([[0, 0, 0, 1 << 62]]), (3, 3, 3))
        with pytest.raises(DataError, match="astray"):
            maker(np.array([[0, 0, 0, 0], [0, 1 << 22, 1 << 22, 1 << 22]]), (3, 3, 3))
    assert len(map_submanifold(np.array([[0, 0, 0, 0], [0, 1 << 20, 1 << 20, 1 << 20]]), (3, 3, 3)).inputs) == 0


def test_wrong_kernels_and_features_are_refused() -> None:
    points = np.array([[0, 1, 2], [0, 5, 5]])
    with pytest.raises(ModelError, match=r"middle.*\(2, 3\)"):
        map_submanifold(points, (2, 3))
    with pytest.raises(ModelError, match="kernel is a whole number of at least 1"):
        map_strided(points, (0, 3))
    with pytest.raises(ModelError, match="stride is a whole number of at least 1"):
        map_strided(points, (3, 3), (2,))
    with pytest.raises(ModelError, match="padding is a whole number of at least 0"):
        map_strided(points, (3, 3), padding=(-1, 0))
    with pytest.raises(ModelError, match="filters have an axis"):
        pack_sparse_conv(np.ones((3, 3), np.float32))
    held, maps = pack_sparse_conv(np.ones((4, 2, 3, 3), np.float32)), map_submanifold(points, (3, 3))
    with pytest.raises(DataError, match=r"kernel \(1, 3\)"):
        held(np.ones((2, 2), np.float32), map_submanifold(points, (1, 3)))
    for shape in ((3, 2), (2,)):
        with pytest.raises(DataError, match=r"features \[2, 2\], a row for each point"):
            held(np.ones(shape, np.float32), maps)
    with pytest.raises(DataError, match="float32, not float64"):
        held(np.ones((2, 2)), maps)
    with pytest.raises(DataError, match=r"\[2\]"):
        held(np.ones((2, 3), np.float32), maps)
