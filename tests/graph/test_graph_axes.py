"""The algebra of axes against brute force: elements labelled one by one, joined by union-find."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.graph.axes import (
    Axis,
    Dim,
    concatenated,
    cut,
    expand,
    fix,
    fixed,
    fresh,
    leaves,
    positions,
    regroup,
    size_of,
    split,
    unify,
)

WHY = "a test says so"


class Elements:
    """Labelled elements; joining two says that they go together."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def new(self, size: int) -> np.ndarray:
        start = len(self.parent)
        self.parent += range(start, start + size)
        return np.arange(start, start + size)

    def find(self, label: int) -> int:
        while self.parent[label] != label:
            label = self.parent[label]
        return label

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            self.parent[self.find(a)] = self.find(b)

    def classes(self, labels: np.ndarray) -> list[int]:
        return [self.find(label) for label in labels.ravel().tolist()]


@st.composite
def _programs(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    step = st.tuples(
        st.sampled_from(("new", "cat", "cut", "shuffle", "unify", "unify", "fix")), *[st.integers(0, 99)] * 3
    )
    return draw(st.lists(step, min_size=3, max_size=14))


@settings(max_examples=300, deadline=None)
@given(_programs())
def test_a_unit_takes_whole_classes_of_coupled_elements_wherever_they_are(
    program: list[tuple[str, int, int, int]],
) -> None:
    """Concatenations, cuts, couplings and view-transpose-view in any order; what is fixed never goes."""
    truth = Elements()
    dims: list[tuple[Dim, np.ndarray]] = [(fresh(4), truth.new(4)), (fresh(6), truth.new(6))]
    for step, a, b, c in program:
        (one, left), (other, right) = dims[a % len(dims)], dims[b % len(dims)]
        if step == "new":
            dims.append((fresh(2 + c % 5), truth.new(2 + c % 5)))
        elif step == "cat" and len(left) + len(right) <= 24:
            dims.append((concatenated([one, other]), np.concatenate([left, right])))
        elif step == "cut" and len(left) > 1:
            at = 1 + c % (len(left) - 1)
            before, after = cut(one, at, WHY)
            dims += [(before, left[:at]), (after, left[at:])]
        elif step == "shuffle":
            rows = next(n for n in (2 + c % 3, 2, 3, 5, len(left)) if len(left) % n == 0)
            outer, inner = regroup(one, [rows, len(left) // rows], WHY)
            dims.append(((*inner, *outer), left.reshape(rows, -1).T.ravel()))
        elif step == "unify" and len(left) == len(right) and one and other:
            unify(one, other, WHY)
            truth.join(left, right)
        elif step == "fix" and c < 20:
            fix(one, WHY)
    _consistent(truth, dims)


def _consistent(truth: Elements, dims: list[tuple[Dim, np.ndarray]]) -> None:
    taken: dict[tuple[Axis, int], list[np.ndarray]] = {}
    for place, (dim, labels) in enumerate(dims):
        assert size_of(dim) == len(labels)
        for leaf, rows in positions(dim):
            if leaf.reason is None and leaf.size > 1:  # a single unit never goes
                for unit, row in enumerate(rows):
                    where = taken.setdefault((leaf, unit), [np.zeros(len(own), bool) for _, own in dims])
                    where[place][row] = True
    classes = [np.array(truth.classes(labels)) for _, labels in dims]
    for where in taken.values():
        gone = {int(label) for mask, own in zip(where, classes, strict=True) for label in own[mask]}
        for mask, own in zip(where, classes, strict=True):
            assert (np.isin(own, list(gone)) == mask).all()


def test_coupled_leaves_stay_prunable() -> None:
    """The invariant above would hold too if everything were fixed."""
    one, two = fresh(4), fresh(6)
    both = concatenated([one, two])
    before, after = cut(both, 7, WHY)
    unify(before, fresh(7), WHY)
    assert [leaf.size for leaf in leaves(both)] == [4, 3, 3]
    assert all(leaf.reason is None for leaf in leaves((*both, *after)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_views_lose_no_element_and_keep_row_major_order(sizes: list[int], data: st.DataObject) -> None:
    dims = [fresh(size) for size in sizes]
    total = prod(sizes)
    new: list[int] = []
    while prod(new) < total:
        rest = total // prod(new)
        new.append(data.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0])))
        if new[-1] == 1 and len(new) > 5:
            new.append(rest)
    made = regroup(tuple(axis for dim in dims for axis in dim), new, WHY)
    assert [size_of(dim) for dim in made] == new
    flat = tuple(axis for dim in dims for axis in dim)
    joined = tuple(axis for dim in made for axis in dim)
    before = {leaf: rows for leaf, rows in positions(flat) if leaf.reason is None}
    after = {leaf: rows for leaf, rows in positions(joined) if leaf.reason is None}
    assert before.keys() == after.keys()
    for leaf, rows in before.items():
        assert [sorted(row) for row in rows.tolist()] == [sorted(row) for row in after[leaf].tolist()]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(2, 4))
def test_a_view_and_back_is_nothing(a: int, b: int, c: int) -> None:
    dim = fresh(a * b * c)
    parts = regroup(dim, [a, b, c], WHY)
    again = regroup(tuple(axis for part in parts for axis in part), [a * b * c], WHY)[0]
    assert expand(again) == expand(dim)
    assert [leaf.size for leaf in leaves(dim)] == [a, b, c]


def test_a_product_has_units_of_strided_elements() -> None:
    dim = fresh(6)
    split(dim[0], 2, 3, WHY)
    (outer, rows), (inner, columns) = positions(dim)
    assert (outer.size, inner.size) == (2, 3)
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert columns.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_fused_projections_share_their_heads() -> None:
    fused = fresh(3 * 4 * 5)
    three, heads, width = regroup(fused, [3, 4, 5], WHY)
    own = fresh(20)
    unify(own, (*heads, *width), WHY)
    assert [leaf.root() for leaf in leaves(own)] == [leaf.root() for leaf in (*heads, *width)]
    rows = {leaf.root(): elements for leaf, elements in positions(fused)}
    assert rows[heads[0].root()][1].tolist() == [5, 6, 7, 8, 9, 25, 26, 27, 28, 29, 45, 46, 47, 48, 49]
    assert three[0].size == 3


def test_what_cannot_be_aligned_is_fixed_with_the_reason() -> None:
    dim = fresh(2) + fresh(3)
    made = regroup(dim, [3, 2], WHY)
    assert {leaf.reason for part in (dim, *made) for leaf in leaves(part)} == {WHY}


def test_a_cut_inside_a_unit_fixes_it() -> None:
    dim = fresh(3) + fresh(4)
    cut(dim, 6, WHY)
    assert {leaf.reason for leaf in leaves(dim)} == {WHY}


def test_a_fixed_partner_fixes_and_keeps_its_reason() -> None:
    one, other = fresh(4), fixed(4, "an output")
    unify(one, other, WHY)
    assert [leaf.reason for leaf in leaves(one)] == ["an output"]


@pytest.mark.parametrize("make", [fresh, lambda size: fixed(size, WHY)])
def test_a_size_of_one_is_no_axis(make: object) -> None:
    assert make(1) == ()  # type: ignore[operator]
