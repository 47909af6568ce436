"""The masks of a model while it is being pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tersenet.core.errors import ModelError
from tersenet.forms import NM, Masked, Target, attach, form_of, latent_of, weight_of
from tersenet.prune.criteria import Criterion
from tersenet.prune.evidence import Evidence
from tersenet.prune.granularity import ELEMENT, NOUNS, Granularity, Reduce, inputs_axis
from tersenet.prune.select import above, above_deviation, highest, highest_of_all, kept_count, normalised
from tersenet.prune.statistics import Statistics

Counts = Mapping[str, int] | int
"""How many granules (by default: entries) to keep: of each weight by name, or of all together."""


@dataclass(frozen=True)
class Grouping:
    """What is kept or lost together, and how the scores of its entries become one.

    by: what the scores of each weight are divided by, 'mean' or 'l2', where different weights are compared.
    """

    granularity: Granularity = ELEMENT
    reduce: Reduce = "sum"
    by: str | None = None


class Masks:
    """One `Masked` form on each of `targets`, and the rule by which entries are chosen.

    Entries that were pruned before stay pruned. All that changes lives in the forms' buffers, so that a run that is
    resumed in the middle of training goes on as it would have.

    criterion: scores; generator(name) gives its randomness, the same each time.
    margin: how far above the threshold a pruned entry must come to be spliced back (the second threshold of Guo et
        al. 2016, eq. 3).
    statistics: makes what the criterion knows besides weights, anew for each update.
    compensate: weights that are kept make up for those that go, as `BlockInverse.compensation` says.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        criterion: Criterion,
        generator: Callable[[str], torch.Generator],
        note: Callable[[str], None],
        margin: float = 0.0,
        *,
        grouping: Grouping | None = None,
        statistics: Callable[[], Statistics] | None = None,
        compensate: bool = False,
    ) -> None:
        self.targets, self.criterion, self.generator, self.margin = tuple(targets), criterion, generator, margin
        self._note, self._noted = note, set[str]()
        self.grouping, self.statistics, self.compensate = grouping or Grouping(), statistics, compensate
        self.granules = {target.name: self.grouping.granularity.granules(target) for target in targets}
        self.forms = {target.name: _masked(target) for target in targets}
        self.allowed = {name: form.mask.clone() for name, form in self.forms.items()}

    def at(self, sparsity: Mapping[str, float]) -> Counts:
        """Counts for a sparsity of each weight."""
        return {t.name: self._count(t.name, self.granules[t.name].count, sparsity[t.name]) for t in self.targets}

    def at_all(self, sparsity: float) -> Counts:
        """The count for a sparsity of all weights together."""
        return self._count("all targets together", sum(g.count for g in self.granules.values()), sparsity)

    def at_deviation(self, quality: Mapping[str, float]) -> Counts:
        """Counts by threshold = quality · standard deviation of each weight."""
        counts = {}
        for target in self.targets:
            weight, mask = weight_of(target), self.forms[target.name].mask
            counts[target.name] = above_deviation(weight, mask, quality[target.name])
            if counts[target.name] == 1 and int(mask.sum()) > 1:
                self.note(f"{target.name} keeps a single weight at quality {quality[target.name]:g}")
        return counts

    def at_threshold(self, threshold: Mapping[str, float]) -> Counts:
        """Counts of the granules whose score reaches the threshold of their weight."""
        scores = self._all_scores(None if self.statistics is None else self.statistics())
        for name, found in scores.items():
            if not bool((found >= threshold[name]).any()):
                self.note(f"{name} has no score of {threshold[name]:g} or more; its highest-scored is kept")
        return {name: above(found, threshold[name]) for name, found in scores.items()}

    def sparsity(self) -> dict[str, float]:
        """Share of the granules of each weight that are gone, as its mask is now."""
        return {name: 1 - float(alive.double().mean()) for name, alive in self._alive().items()}

    def sparsity_of_all(self) -> float:
        alive = self._alive()
        return 1 - sum(int(mask.sum()) for mask in alive.values()) / sum(mask.numel() for mask in alive.values())

    @torch.no_grad()
    def update(self, counts: Counts, *, splicing: bool = False) -> None:
        """Keep `counts` entries. While `splicing`, one that is pruned comes back only if it clears the margin, so that
        fewer may be kept for the time being."""
        statistics = None if self.statistics is None else self.statistics()
        scores = self._all_scores(statistics)
        masks = self._select(scores, counts)
        if splicing:
            masks = self._with_margin(scores, masks, together=isinstance(counts, int))
        for target in self.targets:
            spread = self.granules[target.name].spread(masks[target.name]) & self._candidates(target)
            self._keep(target, spread, statistics)

    @torch.no_grad()
    def update_within(self) -> None:
        """Keep what the granularity itself says: n of m, or the patterns of kernels."""
        statistics = None if self.statistics is None else self.statistics()
        rows = []
        for target in self.targets:
            scores = self._entry_scores(target, statistics).masked_fill(~self._candidates(target), -torch.inf)
            rows.append(self.granules[target.name].entries(scores))
        for target, chosen in zip(self.targets, self.grouping.granularity.choose(rows), strict=True):
            mask = self.granules[target.name].joined(chosen)
            self._keep(target, mask, statistics)
            if self.grouping.granularity.name == "n:m":
                self.forms[target.name] = _as_nm(target, mask, self.grouping.granularity)

    def open(self) -> None:
        """From now on the latents of pruned entries learn too."""
        for form in self.forms.values():
            form.splice.fill_(True)

    def freeze(self, counts: Counts) -> None:
        """Exactly `counts` entries, for good: pruned latents become zero and learn no more."""
        self.update(counts)
        for target in self.targets:
            form = self.forms[target.name]
            form.splice.fill_(False)
            form.keep(form.mask, latent_of(target))

    def note(self, sentence: str) -> None:
        """Once each, however often masks are updated."""
        if sentence not in self._noted:
            self._noted.add(sentence)
            self._note(sentence)

    def _count(self, name: str, entries: int, sparsity: float) -> int:
        if round(sparsity * entries) >= entries:
            self.note(f"{name}: a sparsity of {sparsity:g} would leave nothing of {entries} {self._noun}; one is kept")
        return kept_count(entries, sparsity)

    def _keep(self, target: Target, mask: torch.Tensor, statistics: Statistics | None) -> None:
        latent = latent_of(target)
        if self.compensate and statistics is not None:
            latent.add_(Evidence(target, statistics).inverse.compensation(latent.detach(), mask))
        self.forms[target.name].keep(mask, latent)

    def _alive(self) -> dict[str, torch.Tensor]:
        return {name: self.granules[name].alive(form.mask) for name, form in self.forms.items()}

    def _candidates(self, target: Target) -> torch.Tensor:
        """Entries that can be chosen."""
        form = self.forms[target.name]
        return self.allowed[target.name] if bool(form.splice) else form.mask

    def _entry_scores(self, target: Target, statistics: Statistics | None) -> torch.Tensor:
        """As the criterion gives them: of entries, or of filters."""
        latent = latent_of(target).detach()
        if not bool(latent[self._candidates(target)].isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be pruned; lower the learning rate")
        evidence = None if statistics is None else Evidence(target, statistics)
        return self.criterion(latent, self.generator(target.name), evidence)

    def _all_scores(self, statistics: Statistics | None) -> dict[str, torch.Tensor]:
        """Of the granules of each weight, −∞ for those that cannot be chosen."""
        found = {}
        for target in self.targets:
            entries, granules = self._entry_scores(target, statistics), self.granules[target.name]
            how = "first" if self.criterion.lots else self.grouping.reduce
            scores = granules.reduce(entries, self._candidates(target), how)
            found[target.name] = scores if self.grouping.by is None else normalised(scores, self.grouping.by)
        return found

    def _select(self, scores: Mapping[str, torch.Tensor], counts: Counts) -> dict[str, torch.Tensor]:
        if not isinstance(counts, int):
            for name, entries in scores.items():
                self._note_sparser(name, entries, counts[name])
            return {name: highest(entries, counts[name]) for name, entries in scores.items()}
        masks, rescued = highest_of_all(list(scores.values()), counts)
        names = list(scores)
        self._note_sparser("all targets together", torch.cat([s.reshape(-1) for s in scores.values()]), counts)
        for index in rescued:
            noun = self._noun.removesuffix("s")
            self.note(f"{names[index]} would have lost every {noun} under scope 'global'; its highest-scored is kept")
        return dict(zip(names, masks, strict=True))

    def _note_sparser(self, name: str, scores: torch.Tensor, count: int) -> None:
        available = int((scores > -torch.inf).sum())
        if available < count:
            left = f"{available} {self._noun}, fewer than the {count} asked for"
            self.note(f"{name}: already pruned to {left}; left as it is")

    @property
    def _noun(self) -> str:
        return NOUNS[self.grouping.granularity.name]

    def _with_margin(
        self, scores: Mapping[str, torch.Tensor], masks: dict[str, torch.Tensor], *, together: bool
    ) -> dict[str, torch.Tensor]:
        """S ∩ (kept now ∪ score ≥ (1 + margin)·a), where S are the highest and a is the lowest score in it."""
        lowest = {name: scores[name][mask].min() for name, mask in masks.items()}
        if together:
            lowest = dict.fromkeys(lowest, torch.stack(list(lowest.values())).min())
        bounded = {}
        for name, mask in masks.items():
            clear = scores[name] >= (1 + self.margin) * lowest[name]
            held = mask & (self.forms[name].mask | clear)
            bounded[name] = held if bool(held.any()) else mask
        return bounded


def _as_nm(target: Target, mask: torch.Tensor, granularity: Granularity) -> NM:
    """The same mask in the form that stores n of m."""
    form = NM(mask, *granularity.nm, inputs_axis(target))
    attach(target, form)
    return form


def _masked(target: Target) -> Masked:
    """The weight's mask, a new one that keeps all where there is none yet."""
    form = form_of(target)
    if not isinstance(form, Masked):
        form = Masked(torch.ones_like(weight_of(target), dtype=torch.bool))
        attach(target, form)
    return form
