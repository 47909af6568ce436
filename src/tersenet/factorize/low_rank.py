"""factorize.low_rank: a layer becomes a chain of smaller ones, whose product is nearly its weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.factorize.factorization import Factorization, Option
from tersenet.factorize.layers import refusal, tried
from tersenet.forms import Target, match, per_target
from tersenet.forms.options import one_or_per_layer
from tersenet.graph.factors import largest, shape_of, spelt

Decomposition = Literal["svd", "channel", "spatial", "cp", "tucker", "depthwise"]
Rank = int | tuple[int, int]
Share = float | dict[str, float]

WAYS = ("rank", "keep", "parameters", "energy", "error", "vbmf")
"""To choose ranks."""
WITHOUT_SPECTRUM = {"cp": ("rank", "parameters"), "depthwise": ("rank", "keep", "parameters")}
"""Decompositions whose ranks are not those of a matrix, and the ways that are left."""
CLOSED = ("svd", "depthwise")
"""Decompositions that know what is best for the outputs."""


@register_stage("factorize.low_rank")
class LowRank(Stage):
    """Replace layers by chains of smaller ones, of the rank that is given or that a criterion finds.

    svd: linear layers and embeddings as two (Sainath et al. 2013; Xue et al. 2013), convolutions as their own window to
        K channels and 1×1 (Zhang et al. 2016, arXiv 1505.06798).
    channel: convolutions as 1×1 to K channels and then the window.
    spatial: k×1 to K channels, 1×k (Jaderberg, Vedaldi & Zisserman 2014, arXiv 1405.3866, scheme 2).
    cp: 1×1, depthwise k×1, depthwise 1×k, 1×1 (Lebedev et al. 2015, arXiv 1412.6553).
    tucker: 1×1, the window, 1×1 (Kim et al. 2016, arXiv 1511.06530); its ranks are those of outputs and of inputs.
    depthwise: the window for each input channel by itself, K times, and 1×1 (Guo et al. 2018, arXiv 1808.05517).

    Objective `weights` makes the error of the weight least, `outputs` that of what the layer gives on data, bias
    included; layers are then dealt with in the order of the model, each on what the model gives it by then. Factors are
    ordinary layers: they are pruned, quantized and exported as such. A layer whose factors would have more
    parameters, or more MACs, is left as it is.
    """

    phase = Phase.SHAPE

    decomposition: Decomposition = Field("svd", description="what a layer becomes")
    rank: Rank | dict[str, Rank] | None = Field(
        None, description="K, or [outputs, inputs] for tucker; or {pattern: rank}"
    )
    keep: Share | None = Field(None, description="in place of rank: share of the singular values, in (0, 1]")
    parameters: Share | None = Field(None, description="in place of rank: share of the layer's parameters, in (0, 1)")
    energy: Share | None = Field(None, description="in place of rank: share of the sum of squared singular values")
    error: Share | None = Field(None, description="in place of rank: largest ‖W − Ŵ‖ / ‖W‖ (or of the outputs)")
    vbmf: bool = Field(False, description="in place of rank: what variational Bayes takes for more than noise")
    objective: Literal["weights", "outputs"] = Field("weights", description="svd, depthwise: what is kept close")
    split: Literal["train", "validation"] = Field("train", description="objective outputs: where batches come from")
    batches: int = Field(32, ge=1, description="objective outputs: how many")
    batch_size: int = Field(128, ge=1, description="objective outputs: examples in each")
    samples: int = Field(4096, ge=1, description="objective outputs: positions looked at in each call of a layer")
    finetune: Training | None = Field(None, description="after all layers")

    @field_validator("rank", mode="before")
    @classmethod
    def _rank(cls, value: Any) -> Any:
        entries = list(value.values()) if isinstance(value, Mapping) else [] if value is None else [value]
        if isinstance(value, Mapping) and not value:
            raise ValueError("rank for no layer at all; give one rank or {pattern: rank}")
        for entry in entries:
            numbers = entry if isinstance(entry, list | tuple) and len(entry) == 2 else [entry]
            if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
                raise ValueError(f"must be a whole number, or two of them for tucker, not {entry!r}")
        return value

    @field_validator("keep", "parameters", "energy", "error", mode="before")
    @classmethod
    def _share(cls, value: Any, info: Any) -> Any:
        if value is None:
            return None
        name = info.field_name
        checked = one_or_per_layer(value, name, 0, 1, open_=False)
        numbers = checked.values() if isinstance(checked, Mapping) else [checked]
        if name != "error" and min(numbers) == 0:
            raise ValueError("must be greater than 0")
        return checked

    @model_validator(mode="after")
    def _fits_together(self) -> LowRank:
        ways = self._ways
        if len(ways) != 1:
            raise ValueError(
                f"needs exactly one of {', '.join(WAYS)}" + (f", not {' and '.join(ways)}" if ways else "")
            )
        left = WITHOUT_SPECTRUM.get(self.decomposition, WAYS)
        if ways[0] not in left:
            others = " or ".join(f"'{way}'" for way in left)
            raise ValueError(f"{self.decomposition} has no singular values for '{ways[0]}' to look at; use {others}")
        pairs = self.rank.values() if isinstance(self.rank, dict) else [self.rank]
        if self.decomposition != "tucker" and any(isinstance(pair, tuple) for pair in pairs):
            raise ValueError(f"two ranks belong to tucker; '{self.decomposition}' has one")
        if self.objective == "outputs" and self.decomposition not in CLOSED:
            closed = " and ".join(CLOSED)
            raise ValueError(f"objective 'outputs' has a closed form for {closed} only, not for '{self.decomposition}'")
        foreign = self.model_fields_set & {"split", "batches", "batch_size", "samples"}
        if self.objective == "weights" and foreign:
            raise ValueError(f"'{min(foreign)}' belongs to objective 'outputs'")
        return self

    @property
    def way(self) -> str:
        """By which ranks are chosen."""
        return self._ways[0]

    @property
    def _ways(self) -> list[str]:
        return [name for name in WAYS if getattr(self, name) is not None and getattr(self, name) is not False]

    def options_for(self) -> Iterable[str]:
        option = getattr(self, self.way)
        return tuple(option) if isinstance(option, Mapping) else ()

    def check(self, model: nn.Module) -> None:
        able, _ = self._able(match(model, self.targets, self.ignore))
        for target, value in self._settings(able).items():
            self._check_rank(target, value)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        able, refused = self._able(targets)
        chosen = self._settings(able)
        for target in (target for target in able if target not in chosen):
            refused[target] = f"no {self.way} is given for it"
        given, broken = self._tried(model, chosen, context)
        refused |= {target: broken[path] for target in chosen if (path := target.slots[0].layer) in broken}
        for target, reason in refused.items():
            if target in chosen and self._names(target):
                raise RecipeError(f"{target.name} cannot be factorised: {reason}")
            context.note(f"{target.name} is left as it is: {reason}")
        left = {target: value for target, value in chosen.items() if target not in refused}
        work = Factorization(model, self, given, self._batches(context), context)
        done = [target for target, value in left.items() if work.run(target, self._check_rank(target, value))]
        context.note(f"{len(done)} of {len(targets)} weights became factors")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _able(self, targets: Sequence[Target]) -> tuple[list[Target], dict[Target, str]]:
        """Weights whose layers can become factors, and why others cannot; RecipeError for those that are named."""
        refused = {target: reason for target in targets if (reason := refusal(target, self.decomposition)) is not None}
        for target, reason in refused.items():
            if self._names(target):
                raise RecipeError(f"{target.name} cannot be factorised: {reason}")
        return [target for target in targets if target not in refused], refused

    def _names(self, target: Target) -> bool:
        """Whether the recipe means this very layer, not all of a pattern."""
        return any(name in (*self.targets, *self.options_for()) for s in target.slots for name in (s.name, s.layer))

    def _settings(self, targets: Sequence[Target]) -> dict[Target, Option]:
        """What is given for each weight; those that no pattern of a mapping fits are left out."""
        option = getattr(self, self.way)
        patterns = option if isinstance(option, Mapping) else {}
        fitting = {p: v for p, v in patterns.items() if any(target.matches(p) for target in targets)}
        values = per_target(fitting if patterns else option, targets)
        return {target: values[target.name] for target in targets if target.name in values}

    def _check_rank(self, target: Target, value: Option) -> Option:
        """The same, ranks as tuples; RecipeError for ranks that the layer cannot have."""
        if self.way != "rank":
            return value
        most = largest(self.decomposition, shape_of(target.module))
        ranks = value if isinstance(value, tuple) else (int(value),) * len(most)
        if any(not 1 <= rank <= limit for rank, limit in zip(ranks, most, strict=True)):
            raise RecipeError(
                f"{target.name}: rank {spelt(ranks)} is not possible; as {self.decomposition} the layer can have 1 to "
                f"{spelt(most)} ({{pattern: rank}} gives layers ranks of their own)"
            )
        return ranks

    def _tried(
        self, model: nn.Module, chosen: Iterable[Target], context: RunContext
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        layers = {target.slots[0].layer: target.module for target in chosen}
        for inputs, _ in context.batches("train", 1, 2):
            return tried(model, layers, inputs)
        return {}, {}

    def _batches(self, context: RunContext) -> list[tuple[torch.Tensor, ...]]:
        if self.objective == "weights":
            return []
        found = [inputs for inputs, _ in context.batches(self.split, self.batches, self.batch_size)]
        if not found:
            raise DataError(f"{self.method}: objective 'outputs' looks at the {self.split} data, and there are none")
        return found
