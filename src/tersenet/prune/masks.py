"""The masks of a model while it is being pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from tersenet.core.errors import ModelError
from tersenet.forms import Masked, Target, attach, form_of, latent_of, weight_of
from tersenet.prune.criteria import Criterion
from tersenet.prune.select import above_deviation, highest, highest_of_all, kept_count

Counts = Mapping[str, int] | int
"""How many entries to keep: of each weight by name, or of all together."""


class Masks:
    """One `Masked` form on each of `targets`, and the rule by which entries are chosen.

    Entries that were pruned before stay pruned. All that changes lives in the forms' buffers, so that a run that is
    resumed in the middle of training goes on as it would have.

    criterion: scores; generator(name) gives its randomness, the same each time.
    margin: how far above the threshold a pruned entry must come to be spliced back (the second threshold of Guo et
        al. 2016, eq. 3).
    """

    def __init__(
        self,
        targets: Sequence[Target],
        criterion: Criterion,
        generator: Callable[[str], torch.Generator],
        note: Callable[[str], None],
        margin: float = 0.0,
    ) -> None:
        self.targets, self.criterion, self.generator, self.margin = tuple(targets), criterion, generator, margin
        self._note, self._noted = note, set[str]()
        self.forms = {target.name: _masked(target) for target in targets}
        self.allowed = {name: form.mask.clone() for name, form in self.forms.items()}

    def at(self, sparsity: Mapping[str, float]) -> Counts:
        """Counts for a sparsity of each weight."""
        return {t.name: self._count(t.name, self.allowed[t.name].numel(), sparsity[t.name]) for t in self.targets}

    def at_all(self, sparsity: float) -> Counts:
        """The count for a sparsity of all weights together."""
        return self._count("all targets together", sum(mask.numel() for mask in self.allowed.values()), sparsity)

    def at_deviation(self, quality: Mapping[str, float]) -> Counts:
        """Counts by threshold = quality · standard deviation of each weight."""
        counts = {}
        for target in self.targets:
            weight, mask = weight_of(target), self.forms[target.name].mask
            counts[target.name] = above_deviation(weight, mask, quality[target.name])
            if counts[target.name] == 1 and int(mask.sum()) > 1:
                self.note(f"{target.name} keeps a single weight at quality {quality[target.name]:g}")
        return counts

    def sparsity(self) -> dict[str, float]:
        """Of each weight, as its mask is now."""
        return {name: 1 - float(form.mask.double().mean()) for name, form in self.forms.items()}

    def sparsity_of_all(self) -> float:
        kept = sum(int(form.mask.sum()) for form in self.forms.values())
        return 1 - kept / sum(form.mask.numel() for form in self.forms.values())

    @torch.no_grad()
    def update(self, counts: Counts, *, splicing: bool = False) -> None:
        """Keep `counts` entries. While `splicing`, one that is pruned comes back only if it clears the margin, so that
        fewer may be kept for the time being."""
        scores = {target.name: self._scores(target) for target in self.targets}
        masks = self._select(scores, counts)
        if splicing:
            masks = self._with_margin(scores, masks, together=isinstance(counts, int))
        for target in self.targets:
            self.forms[target.name].keep(masks[target.name], latent_of(target))

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
            self.note(f"{name}: a sparsity of {sparsity:g} would leave nothing of {entries} weights; one is kept")
        return kept_count(entries, sparsity)

    def _scores(self, target: Target) -> torch.Tensor:
        """−∞ for what cannot be chosen."""
        form, latent = self.forms[target.name], latent_of(target).detach()
        candidates = self.allowed[target.name] if bool(form.splice) else form.mask
        if not bool(latent[candidates].isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be pruned; lower the learning rate")
        return self.criterion(latent, self.generator(target.name)).masked_fill(~candidates, -torch.inf)

    def _select(self, scores: Mapping[str, torch.Tensor], counts: Counts) -> dict[str, torch.Tensor]:
        if not isinstance(counts, int):
            for name, entries in scores.items():
                self._note_sparser(name, entries, counts[name])
            return {name: highest(entries, counts[name]) for name, entries in scores.items()}
        masks, rescued = highest_of_all(list(scores.values()), counts)
        names = list(scores)
        self._note_sparser("all targets together", torch.cat([s.reshape(-1) for s in scores.values()]), counts)
        for index in rescued:
            self.note(f"{names[index]} would have lost every weight under scope 'global'; its highest-scored is kept")
        return dict(zip(names, masks, strict=True))

    def _note_sparser(self, name: str, scores: torch.Tensor, count: int) -> None:
        available = int((scores > -torch.inf).sum())
        if available < count:
            self.note(f"{name}: already pruned to {available} weights, fewer than the {count} asked for; left as it is")

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


def _masked(target: Target) -> Masked:
    """The weight's mask, a new one that keeps all where there is none yet."""
    form = form_of(target)
    if not isinstance(form, Masked):
        form = Masked(torch.ones_like(weight_of(target), dtype=torch.bool))
        attach(target, form)
    return form
