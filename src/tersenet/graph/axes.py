"""Axes: what the sizes of tensors are made of.

A dimension (`Dim`) is a row-major product of axes. An axis is indivisible until an operator looks inside it: a view
``(B, 3·H·d) → (B, 3, H, d)`` makes it a *product* of axes, a concatenation or a split makes it a *sum* (segments that
lie one after another). Two dimensions that an operator needs equal are unified, axis by axis, after each has been
refined as far as the other is. What is still a leaf in the end is a group of units that can go one by one, from every
tensor at once; removing them leaves every product a product and every sum a sum, whatever views lie between.

An axis that must keep its size carries the reason. Size-1 dimensions are the empty product, so that broadcasting
couples nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

Dim = tuple["Axis", ...]


class Axis:
    """`size` units; a leaf, a product of axes (`factors`) or a sum of dimensions (`segments`); fixed if `reason`."""

    __slots__ = ("_same", "factors", "number", "reason", "segments", "size")
    _count = 0

    def __init__(self, size: int, reason: str | None = None) -> None:
        self.size = size
        self.reason = reason
        self.factors: Dim | None = None
        self.segments: tuple[Dim, ...] | None = None
        self._same: Axis | None = None
        Axis._count += 1
        self.number = Axis._count  # a stable order for listings

    def root(self) -> Axis:
        """The axis that stands for all that were unified with this one."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        while self._same is not None:  # shorten the path for the next question
            self._same, self = axis, self._same
        return axis

    def join(self, other: Axis) -> None:
        """Let `other` stand for this axis too."""
        self._same = other


def fixed(size: int, reason: str) -> Dim:
    """A dimension of that size which must stay as it is."""
    return () if size == 1 else (Axis(size, reason),)


def fresh(size: int) -> Dim:
    """A dimension of that size about which nothing is known yet."""
    return () if size == 1 else (Axis(size),)


def expand(dim: Iterable[Axis]) -> Dim:
    """`dim` as leaves and sums: products are taken apart, unified axes replaced by the one that stands for them."""
    result: list[Axis] = []
    for axis in dim:
        root = axis.root()
        result.extend(expand(root.factors) if root.factors is not None else (root,))
    return tuple(result)


def size_of(dim: Iterable[Axis]) -> int:
    """The number of elements of `dim`."""
    return prod(axis.size for axis in dim)


def leaves(dim: Iterable[Axis]) -> Iterator[Axis]:
    """Every leaf of `dim`, a leaf in several places several times."""
    for axis in expand(dim):
        if axis.segments is None:
            yield axis
        else:
            for segment in axis.segments:
                yield from leaves(segment)


def fix(dim: Iterable[Axis], reason: str) -> None:
    """Everything in `dim` must keep its size; the first reason given to a leaf stays."""
    for leaf in leaves(dim):
        leaf.reason = leaf.reason or reason


def concatenated(dims: Sequence[Dim]) -> Dim:
    """The dimension in which `dims` lie one after another."""
    if len(dims) == 1:
        return dims[0]
    if all(not leaf.size or leaf.reason for dim in dims for leaf in leaves(dim)):
        reasons = [leaf.reason for dim in dims for leaf in leaves(dim)]
        return fixed(sum(map(size_of, dims)), next((reason for reason in reasons if reason), "of one element"))
    axis = Axis(sum(map(size_of, dims)))
    axis.segments = tuple(dim if dim else (Axis(1, "a single element in a concatenation"),) for dim in dims)
    return (axis,)


def cut(dim: Dim, at: int, reason: str) -> tuple[Dim, Dim]:
    """`dim` as the part before element `at` and the part from it on, 0 < at < size.

    A cut that does not fall between the units of the leading axis fixes the whole dimension, for that reason.
    """
    pieces = _cut(expand(dim), at)
    if pieces is None:
        fix(dim, reason)
        return fixed(at, reason), fixed(size_of(dim) - at, reason)
    before, after = pieces
    return concatenated(before), concatenated(after)


def _cut(dim: Dim, at: int) -> tuple[list[Dim], list[Dim]] | None:
    """Lists of segments before and after element `at`; None where that lies inside a unit of the leading axis."""
    lead, rest = dim[0], dim[1:]
    inner = size_of(rest)
    if at % inner:
        return None
    at //= inner
    if not lead.segments:
        lead.segments = ((Axis(at, lead.reason),), (Axis(lead.size - at, lead.reason),))
    start = 0
    before: list[Dim] = []
    after: list[Dim] = []
    for segment in _flat(lead.segments):
        size = size_of(segment)
        if start + size <= at:
            before.append(segment)
        elif start >= at:
            after.append(segment)
        else:
            pieces = _cut(expand(segment), at - start)
            if pieces is None:
                return None
            before += pieces[0]
            after += pieces[1]
        start += size
    lead.segments = (*before, *after)
    return [(*segment, *rest) for segment in before], [(*segment, *rest) for segment in after]


def _flat(segments: Iterable[Dim]) -> list[Dim]:
    """Segments whose leading axis is no sum itself: (A + B)·C is A·C + B·C."""
    result: list[Dim] = []
    for segment in segments:
        dim = expand(segment)
        if dim and dim[0].segments is not None:
            result += [(*part, *dim[1:]) for part in _flat(dim[0].segments)]
        else:
            result.append(dim)
    return result


def boundaries(axis: Axis) -> set[int]:
    """Where the segments of a sum begin, without 0; empty for a leaf."""
    sizes = [size_of(segment) for segment in _flat(axis.segments)] if axis.segments else []
    return set(np.cumsum(sizes)[:-1].tolist())


def split(axis: Axis, outer: int, inner: int, reason: str) -> None:
    """Make an unfactored axis the product of `outer` × `inner`; where it cannot be, everything in it becomes fixed."""
    if axis.segments is None:
        axis.factors = (Axis(outer, axis.reason), Axis(inner, axis.reason))
        return
    segments = _flat(axis.segments)
    if all(size_of(segment) % inner == 0 for segment in segments):  # every segment holds whole rows of `inner`
        rows = [regroup(segment, [size_of(segment) // inner, inner], reason) for segment in segments]
        for row in rows[1:]:
            unify(rows[0][1], row[1], reason)
        axis.factors = (*concatenated([row[0] for row in rows]), *rows[0][1])
        return
    rest: Dim = (axis,)
    chunks: list[Dim] = []
    for _ in range(outer - 1):  # rows made of several segments each: the rows are stacked, so their number is fixed
        chunk, rest = cut(rest, inner, reason)
        chunks.append(chunk)
    for chunk in chunks:
        unify(rest, chunk, reason)
    axis.factors = (*fixed(outer, reason), *rest)


def regroup(dim: Dim, sizes: Sequence[int], reason: str) -> list[Dim]:
    """The axes of `dim` in row-major order, regrouped into dimensions of these sizes: what a reshape does.

    Where the boundaries of old and new sizes do not fall together the axes between are fixed, for that reason.
    """
    result: list[Dim] = []
    atoms = list(expand(dim))
    waiting = list(sizes)
    while waiting:
        want, got, taken = waiting[0], 1, 0
        while got < want and taken < len(atoms) and want % (got * atoms[taken].size) == 0:
            got *= atoms[taken].size
            taken += 1
        if got == want:
            result.append(tuple(atoms[:taken]))
            del atoms[:taken], waiting[0]
        elif taken < len(atoms) and atoms[taken].size % (want // got) == 0:
            split(atoms[taken], want // got, atoms[taken].size // (want // got), reason)
            atoms = list(expand(atoms))
        else:
            result += _misaligned(atoms, waiting, reason)
    return result


def _misaligned(atoms: list[Axis], waiting: list[int], reason: str) -> list[Dim]:
    """Fix axes until their product is that of whole new dimensions; both lists lose what was dealt with."""
    old = new = 1
    used = made = 0
    while old != new or not made:
        if old <= new and used < len(atoms):
            old *= atoms[used].size
            used += 1
        else:
            new *= waiting[made]
            made += 1
    fix(atoms[:used], reason)
    result = [fixed(size, reason) for size in waiting[:made]]
    del atoms[:used], waiting[:made]
    return result


def unify(one: Dim, other: Dim, reason: str) -> None:
    """Demand that the units of both dimensions correspond, one to one; `reason` is used where they cannot."""
    while True:
        left, right = ([axis for axis in expand(dim) if axis.size != 1] for dim in (one, other))  # 1 couples nothing
        clash = next(((a, b) for a, b in zip(left, right, strict=False) if a.size != b.size), None)
        if clash is None:
            break
        large, small = sorted(clash, key=lambda axis: -axis.size)
        if large.size % small.size:
            fix(left, reason)
            fix(right, reason)
            return
        split(large, small.size, large.size // small.size, reason)
    for a, b in zip(left, right, strict=False):
        _unify_axes(a, b, reason)


def _unify_axes(one: Axis, other: Axis, reason: str) -> None:
    one, other = one.root(), other.root()
    if one is other:
        return
    if one.factors is not None or other.factors is not None:  # refined while an earlier pair was unified
        unify((one,), (other,), reason)
        return
    if one.segments is None:
        one, other = other, one  # now `other` is a leaf, or both are sums
    why = one.reason or other.reason
    if other.segments is None:
        if why is not None:
            fix((one,), why)
        other.join(one)
        return
    while missing := boundaries(one) ^ boundaries(other):  # a cut may cut elsewhere too, so ask again after each
        at = min(missing)
        if _cut((other if at in boundaries(one) else one,), at) is None:
            fix((one,), reason)
            fix((other,), reason)
            return
    pairs = list(zip(_flat(one.segments or ()), _flat(other.segments), strict=True))
    other.join(one)
    for a, b in pairs:
        unify(a, b, reason)


def positions(dim: Dim, at: np.ndarray | None = None) -> Iterator[tuple[Axis, np.ndarray]]:
    """For every leaf in `dim`: the leaf and which elements belong to each of its units, shape (units, elements).

    `at`, if given, numbers the elements of `dim` in its first dimension.
    """
    atoms = expand(dim)
    flat = np.arange(size_of(atoms))[:, None] if at is None else at
    block = flat.reshape(*[axis.size for axis in atoms], flat.shape[-1])
    for place, axis in enumerate(atoms):
        rows = np.moveaxis(block, place, 0).reshape(axis.size, -1)
        if axis.segments is None:
            yield axis, rows
            continue
        start = 0
        for segment in axis.segments:
            yield from positions(segment, rows[start : start + size_of(segment)])
            start += size_of(segment)
