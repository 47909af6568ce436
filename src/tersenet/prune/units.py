"""Scores of the units of a group: what a criterion says of everything that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from tersenet.core.errors import RecipeError
from tersenet.forms import Target, weight_of
from tersenet.graph import Group, Member
from tersenet.prune.criteria import Criterion
from tersenet.prune.evidence import Evidence
from tersenet.prune.granularity import Reduce
from tersenet.prune.statistics import Statistics

Gone = Mapping[tuple[str, int], np.ndarray]
"""(tensor, dimension) → elements that are as good as gone."""


class UnitScores:
    """Scores units by `criterion`, on the weights that make them (of `bn_scale`: on the γ of their norms).

    A unit's score is that of the granule of all its entries, in every layer whose outputs are coupled: their sum, mean
    or Euclidean norm. Criteria of filters give one entry for each filter.
    """

    def __init__(
        self,
        criterion: Criterion,
        targets: Iterable[Target],
        statistics: Statistics,
        generator: Callable[[str], torch.Generator],
        reduce: Reduce = "sum",
        *,
        gammas: bool = False,
    ) -> None:
        self.criterion, self.statistics, self.generator, self.reduce = criterion, statistics, generator, reduce
        self.targets = {name: target for target in targets for name in (target.name, *target.aliases)}
        self.role = "scale" if gammas else "out"

    def members(self, group: Group) -> list[Member]:
        """What is scored: the weights that make the group's units."""
        return [
            member
            for member in group.by_role(self.role)
            if member.tensor in self.targets and self.targets[member.tensor].vector == (self.role == "scale")
        ]

    def of(self, group: Group, gone: Gone | None = None) -> np.ndarray:
        """Score of each unit, float64; entries of weights at `gone` count zero.

        Raises RecipeError where nothing that makes the group can be scored.
        """
        members = self.members(group)
        if not members:
            what = "batch norm with a scale" if self.role == "scale" else "weight of a layer"
            raise RecipeError(f"'{group.name}': no {what} makes its channels, so they cannot be scored; use 'ignore'")
        if self.criterion.lots:
            return np.asarray(self._rows(members[0], {})[:, 0])
        rows = np.concatenate([self._rows(member, gone or {}) for member in members], axis=1)
        if self.reduce == "l2":
            return np.asarray(np.linalg.norm(rows, axis=1))
        return np.asarray(rows.mean(1) if self.reduce == "mean" else rows.sum(1))

    def _rows(self, member: Member, gone: Gone) -> np.ndarray:
        """Scores of the entries of each unit: [units, entries]."""
        scores = self._entries(member, gone).double().cpu().numpy()  # [elements, entries]
        return np.asarray(scores[member.elements.ravel()].reshape(len(member.elements), -1))

    def _entries(self, member: Member, gone: Gone) -> torch.Tensor:
        """Scores by element along the member's dimension: [elements, entries]."""
        target = self.targets[member.tensor]
        weight = weight_of(target).detach()
        scores = self.criterion(weight, self.generator(target.name), Evidence(target, self.statistics))
        if scores.shape != weight.shape:  # [filters]; of a transposed convolution in groups, group after group
            return scores.reshape(-1, weight.shape[member.dim]).T
        if any(tensor == member.tensor for tensor, _ in gone):
            scores = scores.clone()
            for (tensor, dim), elements in gone.items():
                if tensor == member.tensor and dim != member.dim:
                    scores.index_fill_(dim, torch.from_numpy(elements).to(scores.device), 0)
        return scores.movedim(member.dim, 0).flatten(1) if scores.ndim > 1 else scores[:, None]
