"""prune.magnitude: the weights that matter least become zero and stay zero."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, match, per_target
from tersenet.forms.options import one_or_per_layer
from tersenet.prune.contradictions import contradictions
from tersenet.prune.criteria import CRITERIA, CriterionName
from tersenet.prune.dropout import dropouts, rescale, tell
from tersenet.prune.granularity import Granularity, Name, Reduce
from tersenet.prune.masks import Counts, Grouping, Masks
from tersenet.prune.schedule import Window, cubic, geometric
from tersenet.prune.scoring import Scoring
from tersenet.prune.statistics import Statistics


@register_stage("prune.magnitude")
class MagnitudePruning(Stage):
    """Prune by a score of each weight, or of granules of weights together, then fine-tune.

    Han et al. 2015, "Learning both weights and connections", arXiv 1506.02626 (thresholds, iterations, dropout);
    Zhu & Gupta 2017, arXiv 1710.01878, eq. 1 (gradual); Guo et al. 2016, arXiv 1608.04493, eq. 3 (splicing).

    Exactly round(sparsity · n) weights are zero; of equal scores the earlier entry is kept. Every weight keeps at
    least one entry, and what an earlier stage pruned stays pruned. With another granularity all this is said of its
    granules (filters, blocks, …) in place of entries. See `criteria.py` for criteria, `granularity.py` for granules.
    """

    phase = Phase.SUPPORT

    sparsity: float | dict[str, float] | None = Field(
        None, description="share of zeros, in (0, 1), or {pattern: share}; others are left alone"
    )
    quality: float | dict[str, float] | None = Field(
        None, description="scope std: threshold over standard deviation, or {pattern: quality}"
    )
    threshold: float | dict[str, float] | None = Field(
        None, description="in place of sparsity: scores below it go, or {pattern: threshold}"
    )
    criterion: CriterionName = Field("magnitude", description=f"{', '.join(CRITERIA)}")
    scoring: Scoring = Field(Scoring(), description="on how much data the criterion looks, and its own options")
    scope: Literal["layer", "global", "std"] = Field(
        "layer", description="sparsity of each layer, of all together, or by quality × standard deviation"
    )
    normalize: Literal["mean", "l2"] | None = Field(
        None, description="scope global: divide scores by their mean or Euclidean norm in each layer first"
    )
    granularity: Name = Field("element", description="what goes together")
    size: tuple[int, ...] = Field(
        (),
        description="vector: entries of a piece; block: [rows, columns], default [4, 4]; n:m: [n, m], default [2, 4]",
    )
    entries: int = Field(4, ge=1, description="pattern: kept in each kernel")
    patterns: int = Field(8, ge=1, description="pattern: how many different ones")
    reduce: Reduce = Field("sum", description="how scores of entries become that of their granule")
    schedule: Literal["one_shot", "iterative", "gradual"] = Field(
        "one_shot", description="at once; in `steps` rounds of prune and fine-tune; or during one fine-tuning"
    )
    steps: int = Field(1, ge=1, le=100, description="rounds of the iterative schedule; each keeps the same share")
    begin: float = Field(
        0.0, ge=0, lt=1, description="gradual, splice: share of the budget where masks start to change"
    )
    end: float = Field(0.75, gt=0, le=1, description="and where they are fixed")
    frequency: int = Field(100, ge=1, description="and every how many optimizer steps they change")
    splice: bool = Field(False, description="weights may come back while fine-tuning")
    margin: float = Field(0.1, ge=0, description="by how much of the threshold a weight must exceed it to come back")
    finetune: Training | None = Field(None, description="after pruning; for iterative, in every round")
    final: Training | None = Field(None, description="once more at the end, masks fixed")
    rescale_dropout: bool = Field(
        False, description="lower dropout rates by the square root of the connections left in the layer they feed"
    )

    @field_validator("sparsity", mode="before")
    @classmethod
    def _sparsity(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "sparsity", 0, 1)

    @field_validator("quality", mode="before")
    @classmethod
    def _quality(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "quality", 0, float("inf"))

    @field_validator("threshold", mode="before")
    @classmethod
    def _threshold(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "threshold", 0, float("inf"))

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fits_together(self) -> MagnitudePruning:
        wrong = next((sentence for bad, sentence in contradictions(self) if bad), None)
        if wrong:
            raise ValueError(wrong)
        return self

    def options_for(self) -> Iterable[str]:
        option = self._given
        return tuple(option) if isinstance(option, dict) else ()

    def check(self, model: nn.Module) -> None:
        matched = match(model, self.targets, self.ignore)
        for target in matched:
            if target.name in per_target(self._given, matched):
                self.kind.granules(target)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        matched = match(model, self.targets, self.ignore)
        option = self._option(matched, context)
        targets = [target for target in matched if target.name in option]
        masks = self._masks(model, targets, context)
        if self.schedule == "gradual":
            self._gradually(model, context, masks, option)
        else:
            self._in_rounds(model, context, masks, option)
        if self.final is not None:
            context.finetune(model, self.final)
        return model

    @property
    def kind(self) -> Granularity:
        return Granularity(self.granularity, self.size, self.entries, self.patterns)

    @property
    def _noun(self) -> Literal["sparsity", "quality", "threshold"]:
        """The option that says how much goes."""
        return "quality" if self.scope == "std" else "sparsity" if self.threshold is None else "threshold"

    @property
    def _given(self) -> float | dict[str, float]:
        """Its value; that of a granularity which is its own sparsity does not matter."""
        given: float | dict[str, float] | None = 0.0 if self.kind.fixed else getattr(self, self._noun)
        assert given is not None
        return given

    def _masks(self, model: nn.Module, targets: list[Target], context: RunContext) -> Masks:
        grouping = Grouping(self.kind, self.reduce, self.normalize)
        return Masks(
            targets,
            CRITERIA[self.criterion],
            partial(context.generator, "prune"),
            context.note,
            self.margin,
            grouping=grouping,
            statistics=partial(Statistics, model, targets, context, self.scoring),
            compensate=self.scoring.compensate,
        )

    def _option(self, targets: tuple[Target, ...], context: RunContext) -> dict[str, float]:
        """Sparsity, quality or threshold of each weight; a note for those that get none."""
        option = per_target(self._given, targets)
        for target in targets:
            if target.name not in option:
                noun = self._noun
                context.note(f"{target.name} is left as it is, since no {noun} is given for it")
        return option

    def _in_rounds(self, model: nn.Module, context: RunContext, masks: Masks, option: dict[str, float]) -> None:
        """One-shot is one round."""
        rates = dropouts(model) if self.rescale_dropout else ()
        for iteration in range(1, self.steps + 1):
            counts = self._counts(masks, option, iteration)
            if self.kind.fixed:
                masks.update_within()
            else:
                masks.update(counts)
            rescale(rates, masks)
            if self.finetune is not None:
                self._finetune(model, context, masks, counts)
        if self.rescale_dropout:
            tell(rates, context.note)

    def _counts(self, masks: Masks, option: dict[str, float], iteration: int) -> Counts:
        if self.scope == "std":
            return masks.at_deviation(option)
        if self.threshold is not None:
            return masks.at_threshold(option)
        grown = {name: geometric(sparsity, iteration, self.steps) for name, sparsity in option.items()}
        return masks.at_all(next(iter(grown.values()))) if self.scope == "global" else masks.at(grown)

    def _finetune(self, model: nn.Module, context: RunContext, masks: Masks, counts: Counts) -> None:
        """With fixed masks, or splicing at the same counts. All that changes is in the model's buffers, and the
        callback depends on the step alone, so that training can be resumed at any step."""
        assert self.finetune is not None
        if not self.splice:
            context.finetune(model, self.finetune)
            return

        def on_step(step: int, steps: int) -> None:
            if step == self._window.last(steps):
                masks.freeze(counts)
            elif step > 0 and self._window.due(step, steps):
                masks.update(counts, splicing=True)

        masks.open()
        context.finetune(model, self.finetune, on_step=on_step)
        masks.freeze(counts)

    def _gradually(self, model: nn.Module, context: RunContext, masks: Masks, option: dict[str, float]) -> None:
        assert self.finetune is not None
        together = self.scope == "global"
        initial = dict.fromkeys(option, masks.sparsity_of_all()) if together else masks.sparsity()

        def counts_at(progress: float) -> Counts:
            grown = {name: cubic(progress, initial[name], final) for name, final in option.items()}
            return masks.at_all(next(iter(grown.values()))) if together else masks.at(grown)

        def on_step(step: int, steps: int) -> None:
            if step == self._window.last(steps):
                masks.freeze(counts_at(1.0))
            elif self._window.due(step, steps):
                masks.update(counts_at(self._window.progress(step, steps)), splicing=self.splice)

        if self.splice:
            masks.open()
        context.finetune(model, self.finetune, on_step=on_step)
        masks.freeze(counts_at(1.0))

    @property
    def _window(self) -> Window:
        return Window(self.begin, self.end, self.frequency)
