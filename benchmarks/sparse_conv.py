"""Convolution on clouds of points beside dense torch, with and without grouping, and the making of kernel maps.

    pip install -c constraints.txt matplotlib
    python benchmarks/sparse_conv.py [SECTION …] [--threads 1] [--seconds 1.5] [--rounds 7]

Sections: scan, grouping, maps, sweep, compile; all of them without a name. Clouds are those of `point_clouds.py`,
features and weights random. Call by call in turn, so that noise hits all; figures are medians, and ratios those of
medians within a row. With one thread, time is that which the processor spent on the calling thread, so that a machine
that others use too can be measured. What is measured goes into results/sparse_conv.json, and
docs/results/sparse_conv.md and its plot are written from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from point_clouds import scan, uniform, voxels
from sections import Calls, Effort, in_new_processes, interleaved, main
from sparse_conv_page import BF16, DENSE, MAPS, OURS, PADDING, SEARCH, UNGROUPED, Row, write
from torch import nn

from tersenet.runtime.kernels.coordinates import Box, number
from tersenet.runtime.kernels.kernel_map import KernelMap, map_strided, map_submanifold
from tersenet.runtime.kernels.sparse_conv import pack_sparse_conv

CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {2: nn.functional.conv2d, 3: nn.functional.conv3d}
SIDE, DENSITIES = 48, (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
LARGEST = 1 << 20
"""Sites of a grid on which dense convolution is measured too."""
rng = np.random.default_rng(0)


def layer(coordinates: np.ndarray, channels: int, stride: int) -> tuple[Calls, KernelMap]:
    """A layer of kernels of 3 along each axis by us, without grouping, and dense where the grid is small enough."""
    axes = coordinates.shape[1] - 1
    three, step = (3,) * axes, (stride,) * axes

    def make() -> KernelMap:
        return (
            map_submanifold(coordinates, three) if stride == 1 else map_strided(coordinates, three, step, (1,) * axes)
        )

    maps = make()
    x = rng.standard_normal((len(coordinates), channels), np.float32)
    weight = rng.standard_normal((channels, channels, *three), np.float32)
    held = pack_sparse_conv(weight)
    calls: Calls = {OURS: lambda: held(x, maps), UNGROUPED: lambda: held(x, maps, -1), MAPS: make}
    box = Box.around(coordinates)
    if np.prod(box.sizes) <= LARGEST:
        calls |= dense(coordinates - box.low // stride * stride, x, weight, stride)
        agree(calls, maps.sites - box.low // stride)
    return calls, maps


def dense(coordinates: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: int) -> Calls:
    """Dense calls on the smallest grid that holds all points, which starts at the origin."""
    axes, sizes = coordinates.shape[1] - 1, coordinates.max(0) + 1
    grid = np.zeros((*sizes, x.shape[1]), np.float32)
    grid[tuple(coordinates.T)] = x
    order = torch.channels_last if axes == 2 else torch.channels_last_3d
    image, filters = torch.from_numpy(np.moveaxis(grid, -1, 1)), torch.from_numpy(weight)
    calls: Calls = {}
    for name, kind in ((DENSE, torch.float32), (BF16, torch.bfloat16)):
        given = (image.to(kind).contiguous(memory_format=order), filters.to(kind).contiguous(memory_format=order))
        calls[name] = lambda given=given: CONVOLUTIONS[axes](*given, None, stride, 1)
    return calls


def agree(calls: Calls, sites: np.ndarray) -> None:
    """That all give the same at our sites; those before the origin, which dense leaves out, are not compared."""
    inside = (sites >= 0).all(1)
    results = {name: calls[name]() for name in (DENSE, BF16)}
    expected = results[DENSE].movedim(1, -1).numpy()
    inside &= (sites < expected.shape[:-1]).all(1)
    at = tuple(sites[inside].T)
    found = {name: calls[name]()[inside] for name in (OURS, UNGROUPED)}
    found[BF16] = results[BF16].float().movedim(1, -1).numpy()[at]
    for name, own in found.items():
        tolerance = (0.05 if name == BF16 else 1e-4) * np.abs(expected).max()
        assert np.allclose(own, expected[at], atol=tolerance, rtol=0), name


def scans(effort: Effort) -> Iterator[Row]:
    """Layers on a scan: whole, as networks see it, and near the sensor and coarse, where dense can be measured."""
    points = scan(np.random.default_rng(1))
    flat = points[:, :2]
    cases = {
        "voxels of 0.05 m": (voxels(points, 0.05), 32, 1),
        "voxels of 0.1 m": (voxels(points, 0.1), 32, 1),
        "voxels of 0.1 m, stride 2": (voxels(points, 0.1), 32, 2),
        "voxels of 0.1 m, more channels": (voxels(points, 0.1), 64, 1),
        "voxels of 0.32 m, to 20 m": (voxels(points, 0.32, 20.48), 32, 1),
        "voxels of 0.32 m, to 20 m, stride 2": (voxels(points, 0.32, 20.48), 32, 2),
        "voxels of 0.32 m, to 20 m, more channels": (voxels(points, 0.32, 20.48), 64, 1),
        "voxels of 1.28 m, to 41 m": (voxels(points, 1.28, 40.96), 64, 1),
        "from above, 2-D, squares of 0.16 m, to 41 m": (voxels(flat, 0.16, 40.96), 64, 1),
    }
    for case, (coordinates, channels, stride) in cases.items():
        calls, maps = layer(coordinates, channels, stride)
        yield measured("scan", case, calls, coordinates, maps, channels, effort)


def measured(
    section: str,
    case: str,
    calls: Calls,
    coordinates: np.ndarray,
    maps: KernelMap,
    channels: int,
    effort: Effort,
) -> Row:
    sites = int(np.prod(Box.around(coordinates).sizes))
    pairs = len(maps.inputs) + (maps.points if maps.own is not None else 0)
    ms = interleaved(calls, effort)
    return Row(section, case, ms, len(coordinates), sites, len(maps.sites), pairs, channels)


def grouping(effort: Effort) -> Iterator[Row]:
    """Time against the share of a batched product that may be padding."""
    points = scan(np.random.default_rng(1))
    for size, within, channels in ((1.28, 40.96, 64), (0.64, 40.96, 32), (0.32, 20.48, 32), (0.1, np.inf, 32)):
        coordinates = voxels(points, size, within)
        found = map_submanifold(coordinates, (3, 3, 3))
        held = pack_sparse_conv(rng.standard_normal((channels, channels, 3, 3, 3), np.float32))
        x = rng.standard_normal((len(coordinates), channels), np.float32)
        calls: Calls = {
            name: lambda x=x, held=held, found=found, most=most: held(x, found, most) for name, most in PADDING.items()
        }
        yield measured("grouping", f"voxels of {size} m", calls, coordinates, found, channels, effort)


def maps(effort: Effort) -> Iterator[Row]:
    """Kernel maps beside those of NumPy's binary search in sorted keys, of the same half of the taps."""
    points = scan(np.random.default_rng(1))
    shuffled = rng.permutation(voxels(points, 0.05))
    clouds = {
        "scan, voxels of 0.05 m": voxels(points, 0.05),
        "the same in random order": shuffled,
        "scan, voxels of 0.2 m": voxels(points, 0.2),
        "random, 2% of 160³": uniform(rng, 160, 0.02),
        "random, 30% of 64³": uniform(rng, 64, 0.3),
    }
    for case, coordinates in clouds.items():
        found = map_submanifold(coordinates, (3, 3, 3))
        calls: Calls = {
            OURS: lambda own=coordinates: map_submanifold(own, (3, 3, 3)),
            SEARCH: lambda own=coordinates: searched(own),
        }
        assert len(found.inputs) == 2 * sum(len(one) for one in calls[SEARCH]())
        yield measured("maps", case, calls, coordinates, found, 0, effort)
    calls = {OURS: lambda: map_strided(clouds["scan, voxels of 0.05 m"], (3, 3, 3), (2, 2, 2), (1, 1, 1))}
    case, coordinates = "scan, voxels of 0.05 m, stride 2", clouds["scan, voxels of 0.05 m"]
    yield measured("maps", case, calls, coordinates, calls[OURS](), 0, effort)


def searched(coordinates: np.ndarray) -> list[np.ndarray]:
    """The pairs of each of the first 13 taps, as [pairs, 2]."""
    box = Box.around(coordinates)
    box = Box(box.low - 1, box.high + 1)
    keys = number(coordinates, box.low, box.steps)
    order = np.argsort(keys)
    ordered, found = keys[order], []
    for tap in range(13):
        wanted = keys + ((np.array(np.unravel_index(tap, (3, 3, 3))) - 1) * box.steps[1:]).sum()
        place = np.searchsorted(ordered, wanted)
        outputs = np.flatnonzero(ordered[np.minimum(place, len(keys) - 1)] == wanted)
        found.append(np.stack([order[place[outputs]], outputs], 1))
    return found


def sweep(effort: Effort) -> Iterator[Row]:
    """Time against density, on sites taken at random."""
    for density in DENSITIES:
        coordinates = uniform(rng, SIDE, density)
        calls, found = layer(coordinates, 32, 1)
        yield measured("sweep", f"{SIDE}³, 32→32", calls, coordinates, found, 32, effort)


def first_calls() -> dict[str, float]:
    """Seconds of the processor for the first call of each kernel in this process, on the smallest inputs, imports left
    out."""
    points, x = np.array([[0, 1, 2, 3], [0, 1, 2, 4]]), np.ones((2, 4), np.float32)
    held, maps = pack_sparse_conv(np.ones((4, 4, 3, 3, 3), np.float32)), []
    calls: Calls = {
        "maps, submanifold": lambda: maps.append(map_submanifold(points, (3, 3, 3))),
        "maps, strided": lambda: map_strided(points, (3, 3, 3), (2, 2, 2)),
        "gather and scatter": lambda: held(x, maps[0]),
    }
    found = {}
    for name, call in calls.items():
        start = time.process_time()
        call()
        found[name] = time.process_time() - start
    return found


def compile_(effort: Effort) -> Iterator[Row]:
    for name, ms in in_new_processes(__file__).items():
        yield Row("compile", name, ms)


SECTIONS = {"scan": scans, "grouping": grouping, "maps": maps, "sweep": sweep, "compile": compile_}


if __name__ == "__main__":
    summary = (__doc__ or "").split("\n")[0]
    main(summary, SECTIONS, first_calls, write, results="results/sparse_conv.json", threads=1, counted="points")
