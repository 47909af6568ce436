"""What tests of several rooms share: a run that trains on a few tensors, without data sets, devices or files."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch: threads must not spin for long on a busy machine

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from tersenet.core.seeds import generator
from tersenet.core.training import Training


@dataclass
class ToyContext:
    """A `RunContext` over one batch: plain SGD or Adam at a constant rate, squared error against `target`.

    watch: called with the model after each optimizer step, before the stage's own callback.
    """

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor
    seed: int = 0
    dry: bool = False
    notes: list[str] = field(default_factory=list)
    trained: list[Training] = field(default_factory=list)
    watch: Callable[[nn.Module], None] | None = None
    initial: Mapping[str, torch.Tensor] | None = None

    def finetune(
        self,
        model: nn.Module,
        training: Training,
        *,
        on_step: Callable[[int, int], None] | None = None,
        penalty: Callable[[int, int], torch.Tensor] | None = None,
    ) -> None:
        self.trained.append(training)
        steps = training.steps or 0
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kind = torch.optim.SGD if training.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind(learned, lr=training.lr, weight_decay=training.l2)
        if on_step:
            on_step(0, steps)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            (self.loss(model) + (penalty(step - 1, steps) if penalty else 0.0)).backward()
            optimizer.step()
            if self.watch:
                self.watch(model)
            if on_step:
                on_step(step, steps)

    def loss(
        self, model: nn.Module, batch: tuple[tuple[torch.Tensor, ...], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Of one batch, or of everything."""
        inputs, target = (self.inputs, self.target) if batch is None else batch
        return (model(*inputs) - target).square().mean()

    def batches(
        self, split: str = "train", count: int | None = None, batch_size: int = 128
    ) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        for first in range(0, len(self.target), batch_size)[:count]:
            part = slice(first, first + batch_size)
            yield tuple(tensor[part] for tensor in self.inputs), self.target[part]

    def initial_weights(self) -> Mapping[str, torch.Tensor] | None:
        return self.initial

    def evaluate(self, model: nn.Module, split: str = "validation") -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(self.loss(model)), "examples": float(len(self.target))}

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, *purpose)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture(scope="session")
def toy_context() -> type[ToyContext]:
    return ToyContext
