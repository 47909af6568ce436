"""A dry run: which layers each stage matches and how many bytes are to be expected, with nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.copying import copied
from tersenet.core.recipe import Recipe
from tersenet.core.seeds import generator
from tersenet.core.training import Training
from tersenet.flow.pack import contents_of
from tersenet.flow.weights import nonzero
from tersenet.forms import check_order, match, weight_of, weights
from tersenet.measure.macs import count_macs
from tersenet.train.objectives import output_of


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
    macs_file: int | None
    macs_nonzero: int | None
    notes: list[str]


@dataclass
class DryContext:
    """A run context that trains nothing: masks and codebooks are made, fine-tuning is passed over.

    example: inputs of one example, whose shape the one batch has that it gives; its loss is the mean square of the
        outputs, as no target is known. initial: the model before its weights were drawn.
    """

    seed: int
    example: tuple[torch.Tensor, ...] | None = None
    initial: nn.Module | None = None
    notes: list[str] = field(default_factory=list)
    ticks: int = 100
    dry: bool = True

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
        return {"loss": 0.0, "error": 0.0, "examples": 0.0}

    def batches(
        self, split: Literal["train", "validation"] = "train", count: int | None = None, batch_size: int = 128
    ) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        if self.example is not None:
            yield tuple(self._drawn(tensor) for tensor in self.example), torch.zeros(0)

    def loss(self, model: nn.Module, batch: tuple[tuple[torch.Tensor, ...], torch.Tensor]) -> torch.Tensor:
        return output_of(model(*batch[0])).square().mean()

    def initial_weights(self) -> Mapping[str, torch.Tensor] | None:
        return None if self.initial is None else {t.name: weight_of(t) for t in weights(self.initial)}

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, "plan", *purpose)

    def _drawn(self, tensor: torch.Tensor) -> torch.Tensor:
        """Noise of the same shape; numbers that are no measurements (tokens) as they are."""
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=self.generator("batches"), dtype=tensor.dtype)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def plan(recipe: Recipe, model: nn.Module, inputs: tuple[torch.Tensor, ...] | None = None) -> Plan:
    """Dry run of `recipe` on a copy of `model`. `inputs`: one example, for the MACs.

    Trained weights have heavy tails, which is what pruning lives on, so each weight is drawn from a Laplace
    distribution with its own deviation; the real stages and the real coder then run on them. How near this comes
    to a trained net depends on the net; a test holds it to a factor of 1.25 on digits.
    """
    check_order(recipe.stages, model)
    given, model = model, copied(model)
    as_if_trained(model, recipe.seed)
    context, matched = DryContext(recipe.seed, inputs, given if recipe.train else None), []
    dense = copied(model)
    for stage in recipe.stages:
        matched.append((stage.method, [target.name for target in match(model, stage.targets, stage.ignore)]))
        model = stage.apply(model, context)
    data, ledger = artifact.to_bytes(contents_of(model, recipe, None), recipe.code.coder)
    macs, left = (count_macs(net, *inputs) if inputs else None for net in (dense, model))
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
        macs_file=left.total if left else None,
        macs_nonzero=left.nonzero if left else None,
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
