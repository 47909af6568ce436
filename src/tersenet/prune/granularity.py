"""Granularity: which entries of a weight are kept or lost together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from tersenet.core.errors import RecipeError
from tersenet.forms import Target
from tersenet.prune.groups import by_role
from tersenet.prune.pattern import dictionary, nearest_pattern
from tersenet.prune.select import highest_of_each

Name = Literal["element", "vector", "kernel", "pattern", "block", "filter", "channel", "n:m"]
Reduce = Literal["sum", "mean", "l2"]

NOUNS = {
    **{"element": "weights", "vector": "vectors", "kernel": "kernels", "pattern": "kernels"},
    **{"block": "blocks", "filter": "filters", "channel": "channels", "n:m": "groups"},
}


_REDUCED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda entries: entries.sum(1),
    "mean": lambda entries: entries.mean(1),
    "l2": lambda entries: torch.linalg.vector_norm(entries, dim=1),
    "first": lambda entries: entries[:, 0],
}


@dataclass(frozen=True, eq=False)
class Granules:
    """The granules of one weight, all of one size.

    places: [granules, size], the flat indices of the entries of each; None where every entry is one, in whose case
        scores and masks of granules have the weight's shape.
    """

    shape: tuple[int, ...]
    places: torch.Tensor | None
    noun: str

    @property
    def count(self) -> int:
        return math.prod(self.shape) if self.places is None else len(self.places)

    def reduce(self, scores: torch.Tensor, held: torch.Tensor, how: Reduce | Literal["first"] = "sum") -> torch.Tensor:
        """Scores of granules, −∞ where `held` (bool, shape of the weight) has no entry of it.

        scores: of entries, shape of the weight, of which those held count: their sum, their mean over the size of the
            granule, or their Euclidean norm, in float64; or the first of all, held or not. Or of filters, [filters],
            which are granules themselves.
        """
        if self.places is None:
            return scores.masked_fill(~held, -torch.inf)
        places = self.places.to(scores.device)
        alive = held.reshape(-1)[places].any(dim=1)
        if tuple(scores.shape) == self.shape:
            counted = scores.double() if how == "first" else scores.double().masked_fill(~held, 0)
            entries = counted.reshape(-1)[places]  # [granules, size]
            scores = _REDUCED[how](entries)
        return scores.masked_fill(~alive, -torch.inf)

    def spread(self, kept: torch.Tensor) -> torch.Tensor:
        """Bool, shape of the weight: the entries of the granules that are kept."""
        return kept if self.places is None else self.joined(kept.unsqueeze(1).expand_as(self.places))

    def alive(self, mask: torch.Tensor) -> torch.Tensor:
        """Which granules have an entry in `mask`."""
        return mask if self.places is None else mask.reshape(-1)[self.places.to(mask.device)].any(dim=1)

    def joined(self, rows: torch.Tensor) -> torch.Tensor:
        """The way back from `entries`: [granules, size] in the shape of the weight."""
        whole = torch.zeros(self.shape, dtype=rows.dtype, device=rows.device)
        places = torch.arange(whole.numel()).unsqueeze(1) if self.places is None else self.places
        whole.view(-1)[places.to(rows.device)] = rows
        return whole

    def entries(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the weight's shape as [granules, size]."""
        return values.reshape(-1, 1) if self.places is None else values.reshape(-1)[self.places.to(values.device)]


@dataclass(frozen=True)
class Granularity:
    """What a granule is. Filters, channels and kernels are those of `groups.by_role`; the matrix view has a row for
    each filter and a column for each input and place of the kernel.

    element: one entry. vector: a row of a kernel (of a linear weight: a row), or pieces 1 × `size` of the matrix view.
    kernel: W[n, c, :, :]. block: `size` rows × columns of the matrix view. filter: W[n]. channel: W[:, c]. (Mao et al.
    2017, "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks", arXiv 1705.08922, §3.)
    n:m: `size` = (n, m); of m inputs that follow one another at one place of the kernel, the n highest are kept.
    pattern: `entries` of each kernel are kept, in one of `patterns` arrangements (see `pattern.py`).
    """

    name: Name = "element"
    size: tuple[int, ...] = ()
    entries: int = 4
    patterns: int = 8

    @property
    def fixed(self) -> bool:
        """Whether it is itself how much is kept, so that no sparsity is asked for."""
        return self.name in ("n:m", "pattern")

    @property
    def nm(self) -> tuple[int, int]:
        """(n, m)."""
        n, m = self.size or (2, 4)
        return n, m

    def granules(self, target: Target) -> Granules:
        """Raises RecipeError, naming the weight, where its size is no multiple of the granule's."""
        if self.name == "element":
            return Granules(target.shape, None, NOUNS[self.name])
        view = by_role(target, torch.arange(math.prod(target.shape)).view(target.shape))
        return Granules(target.shape, self._places(target, view).contiguous(), NOUNS[self.name])

    def _places(self, target: Target, view: torch.Tensor) -> torch.Tensor:
        if target.vector and self.name != "filter":
            raise RecipeError(f"{target.name} has one dimension and no {NOUNS[self.name]}; leave it out with 'ignore'")
        matrix = view.reshape(view.shape[0] * view.shape[1], -1)  # [filters, inputs · places]
        if self.name == "filter":
            return matrix
        if self.name == "channel":
            return view.transpose(1, 2).reshape(view.shape[0] * view.shape[2], -1)  # [inputs, outputs · places]
        if self.name == "vector":
            return _pieces(target, matrix, 1, self.size[0] if self.size else view.shape[-1])
        if self.name == "block":
            return _pieces(target, matrix, *(self.size or (4, 4)))
        if self.name == "n:m":
            return self._along_inputs(target, view)
        return self._kernels(target, view)

    def _along_inputs(self, target: Target, view: torch.Tensor) -> torch.Tensor:
        """[groups of m, m]."""
        m = self.nm[1]
        if view.shape[2] % m:
            raise RecipeError(
                f"{target.name} has {view.shape[2]} inputs, no multiple of {m}; leave it out with 'ignore'"
            )
        return view.movedim(2, -1).reshape(-1, m)

    def _kernels(self, target: Target, view: torch.Tensor) -> torch.Tensor:
        if view.ndim < 4:
            raise RecipeError(f"{target.name} ({target.kind}) has no kernels; leave it out with 'ignore'")
        places = view.flatten(3)
        if self.name == "pattern" and places.shape[3] < self.entries:
            raise RecipeError(
                f"{target.name} has kernels of {places.shape[3]} entries, fewer than the {self.entries} of a pattern; "
                "leave it out with 'ignore'"
            )
        return places.flatten(0, 2)  # [kernels, places]

    def choose(self, scores: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """For a fixed granularity: of each weight's scores [granules, size], −∞ where nothing is held, which entries
        are kept, of that shape. Patterns are chosen for all weights with kernels of one size together."""
        if self.name == "n:m":
            return [highest_of_each(rows, self.nm[0]) for rows in scores]
        sizes = {rows.shape[1] for rows in scores}
        found = {
            size: dictionary([rows for rows in scores if rows.shape[1] == size], self.entries, self.patterns)
            for size in sorted(sizes)
        }
        return [nearest_pattern(rows, found[rows.shape[1]]) & (rows > -torch.inf) for rows in scores]


ELEMENT = Granularity()
"""Every entry for itself."""


def inputs_axis(target: Target) -> int:
    """The axis of the weight along which its inputs lie, in the sense of `by_role`."""
    embedding = isinstance(target.module, nn.Embedding | nn.EmbeddingBag)
    return 0 if embedding or isinstance(target.module, _ConvTransposeNd) else 1


def per_filter(target: Target, scores: torch.Tensor, how: Reduce = "sum") -> torch.Tensor:
    """Scores of the filters [filters] from those of entries (shape of the weight) or of filters already."""
    granules = Granularity("filter").granules(target)
    return granules.reduce(scores, torch.ones(target.shape, dtype=torch.bool, device=scores.device), how)


def contradictions(granularity: Granularity, given: set[str]) -> list[tuple[bool, str]]:
    """(whether it is so, what is wrong) about the options of a granularity; `given`: those that a recipe names."""
    name, size = granularity.name, granularity.size
    lengths = {"vector": (1,), "block": (2,), "n:m": (2,)}.get(name, ())
    return [
        (bool(size) and not lengths, "'size' belongs to granularity 'vector', 'block' and 'n:m'"),
        (
            bool(size) and bool(lengths) and len(size) not in lengths,
            "'size' is one number for granularity 'vector', and two for 'block' (rows, columns) and 'n:m' (n, m)",
        ),
        (any(length < 1 for length in size), f"'size' must be whole numbers of 1 or more, not {list(size)}"),
        (
            name == "n:m" and len(size) == 2 and not size[0] < size[1] <= 16,
            f"granularity 'n:m' keeps n of m, so 'size' needs n < m ≤ 16, not {list(size)}",
        ),
        (
            name != "pattern" and bool(given & {"entries", "patterns"}),
            "'entries' and 'patterns' belong to granularity 'pattern'",
        ),
    ]


def _pieces(target: Target, matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[blocks, rows · columns], blocks in row-major order."""
    height, width = matrix.shape
    if height % rows or width % columns:
        raise RecipeError(
            f"{target.name} is {height} × {width} as a matrix, which cannot be cut into pieces of {rows} × {columns}; "
            "leave it out with 'ignore' or choose another 'size'"
        )
    cut = matrix.view(height // rows, rows, width // columns, columns)
    return cut.transpose(1, 2).reshape(-1, rows * columns)
