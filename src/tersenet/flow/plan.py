"""A dry run: which layers each stage matches and how many bytes are to be expected, with nothing trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.recipe import Recipe
from tersenet.core.seeds import generator
from tersenet.core.training import Training
from tersenet.flow.pack import contents_of
from tersenet.flow.weights import nonzero
from tersenet.forms import check_order, match
from tersenet.measure.macs import count_macs, nonzero_macs


@dataclass(frozen=True)
class Plan:
    """What a recipe would do. Bytes are predicted by coding random weights in place of trained ones."""

    stages: list[tuple[str, list[str]]]
    rows: list[artifact.LedgerRow]
    predicted_bytes: int
    dense_bytes: int
    parameters: int
    nonzero: int
    macs: int | None
    macs_nonzero: int | None
    notes: list[str]


@dataclass
class DryContext:
    """A run context that trains nothing: masks and codebooks are made, fine-tuning is passed over."""

    seed: int
    notes: list[str] = field(default_factory=list)
    ticks: int = 100

    def finetune(
        self,
        model: nn.Module,
        training: Training,
        *,
        on_step: Callable[[int, int], None] | None = None,
        penalty: Callable[[int, int], torch.Tensor] | None = None,
    ) -> None:
        for step in range(self.ticks + 1 if on_step else 0):
            assert on_step is not None
            on_step(step, self.ticks)

    def evaluate(self, model: nn.Module, split: str = "validation") -> dict[str, float]:
        return {"loss": 0.0, "error": 0.0}

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, "plan", *purpose)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def plan(recipe: Recipe, model: nn.Module, inputs: tuple[torch.Tensor, ...] | None = None) -> Plan:
    """Dry run of `recipe` on a copy of `model`. `inputs`: one example, for the MACs.

    Trained weights have heavy tails, which is what pruning lives on, so each weight is drawn from a Laplace
    distribution with its own deviation; the real stages and the real coder then run on them. How near this comes
    to a trained net depends on the net; a test holds it to a factor of 1.25 on digits.
    """
    check_order(recipe.stages, model)
    model = copy.deepcopy(model)
    as_if_trained(model, recipe.seed)
    context, matched = DryContext(recipe.seed), []
    dense = copy.deepcopy(model)
    for stage in recipe.stages:
        matched.append((stage.method, [target.name for target in match(model, stage.targets, stage.ignore)]))
        model = stage.apply(model, context)
    data, ledger = artifact.to_bytes(contents_of(model, recipe, None), recipe.code.coder)
    macs = count_macs(dense, *inputs) if inputs else None
    if macs is None:
        context.note("MACs are not counted: the shape of an input comes from the data, which cannot be loaded")
    return Plan(
        stages=matched,
        rows=list(ledger.rows),
        predicted_bytes=len(data),
        dense_bytes=4 * sum(parameter.numel() for parameter in dense.parameters()),
        parameters=sum(parameter.numel() for parameter in dense.parameters()),
        nonzero=nonzero(model),
        macs=macs.total if macs else None,
        macs_nonzero=nonzero_macs(model, macs) if macs else None,
        notes=context.notes,
    )


@torch.no_grad()
def as_if_trained(model: nn.Module, seed: int) -> None:
    """Replace every weight of two and more dimensions by Laplace noise of the same deviation."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or not parameter.is_floating_point() or parameter.numel() < 2:
            continue
        uniform = torch.rand(parameter.shape, generator=generator(seed, "as_if_trained", name)) - 0.5
        laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.5 - 1e-7))
        parameter.copy_(laplace * (parameter.std().cpu() / 2**0.5))
