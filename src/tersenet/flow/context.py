"""What a stage may ask of a run: training that is never done twice, evaluation on validation, randomness, notes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.core.factory import reason
from tersenet.core.recipe import Runtime, canonical_digest
from tersenet.core.record import Epoch
from tersenet.core.seeds import derive, generator
from tersenet.core.training import Training
from tersenet.data import Splits
from tersenet.flow.progress import Progress, Quiet
from tersenet.flow.teachers import digests, teachers_for
from tersenet.forms import weight_of, weights
from tersenet.measure.accuracy import evaluate
from tersenet.train.checkpoint import CheckpointStore
from tersenet.train.loop import EpochLog, fit
from tersenet.train.objectives import objective_for, output_of

SAVE_EVERY = 2.0
"""Seconds between checkpoints: what a kill may cost, against the time that saving takes."""


@dataclass
class Context:
    """One run, as its stages see it (`core.stage.RunContext`).

    `key` sums up all that has determined the model so far, and so names the checkpoint of the next training: a stage
    that is repeated on resume finds its finished trainings there, whatever else was changed after it. `known`: the
    models that may teach, by what a recipe calls them.
    """

    splits: Splits
    fabric: Fabric
    seed: int
    store: CheckpointStore
    key: str
    objective: Training
    progress: Progress = field(default_factory=Quiet)
    phase: str = "train"
    epochs: list[Epoch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    started: float = field(default_factory=time.perf_counter)
    begun: float = 0.0
    initial: Mapping[str, torch.Tensor] | None = None
    known: dict[str, nn.Module] = field(default_factory=dict)
    seconds_before: float = 0.0
    dry: bool = False

    def enter(self, phase: str, determined_by: Any) -> None:
        """Begin a phase that is determined by everything before and by these plain values."""
        self.phase, self.calls, self.begun = phase, 0, self.now()
        self.key = canonical_digest([self.key, phase, determined_by])
        self.progress.phase(phase)

    def finetune(
        self,
        model: nn.Module,
        training: Training,
        *,
        on_step: Callable[[int, int], None] | None = None,
        penalty: Callable[[int, int], torch.Tensor] | None = None,
    ) -> None:
        self.calls += 1
        if self.phase == "train":
            self.initial = {t.name: weight_of(t).to("cpu", copy=True) for t in weights(model)}
        place = f"{self.key}-{self.calls}-{canonical_digest(training.to_dict() | digests(training))}"
        if self.phase == "train" and self.store.only_others(place):
            self.progress.say(
                "  from the beginning: no checkpoint is of this model, data, seed, recipe, version"
                f" and number of threads ({torch.get_num_threads()})"
            )
        begun = time.perf_counter()
        logs = fit(
            model,
            self.splits.train,
            training,
            self.fabric,
            seed=derive(self.seed, self.phase, self.calls),
            slot=self.store.slot(place),
            save_every=SAVE_EVERY,
            on_step=on_step,
            penalty=penalty,
            teachers=teachers_for(training, self.known, self.fabric.device),
            on_epoch=self.progress.epoch,
            scores=self.evaluate,
        )
        self.epochs += [self._epoch(log) for log in logs]
        if logs:  # what was trained before an interruption, or for another recipe with the same beginning, counts too
            self.seconds_before += max(0.0, logs[-1].seconds - (time.perf_counter() - begun))

    def now(self) -> float:
        """Seconds of work since the run began, whatever part of it was done before an interruption."""
        return time.perf_counter() - self.started + self.seconds_before

    def evaluate(self, model: nn.Module, split: str = "validation") -> dict[str, float]:
        source = getattr(self.splits, split)
        return evaluate(model, source, objective_for(self.objective), output_of, self.fabric.device)

    def batches(
        self, split: Literal["train", "validation"] = "train", count: int | None = None, batch_size: int = 128
    ) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """Of several processes, each gets all of them: what is decided on them must be the same everywhere."""
        source = getattr(self.splits, split)
        for batch in islice(source.batches(batch_size, seed=derive(self.seed, "batches", split)), count):
            moved = batch.to(self.fabric.device)
            yield moved.inputs, moved.target

    def loss(self, model: nn.Module, batch: tuple[tuple[torch.Tensor, ...], torch.Tensor]) -> torch.Tensor:
        inputs, target = batch
        return objective_for(self.objective)(output_of(model(*inputs)), target)

    def initial_weights(self) -> Mapping[str, torch.Tensor] | None:
        return self.initial

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, self.phase, *purpose)

    def note(self, sentence: str) -> None:
        line = f"{self.phase}: {sentence}"
        if line not in self.notes:
            self.notes.append(line)
            self.progress.say(f"note: {line}")

    def _epoch(self, log: EpochLog) -> Epoch:
        return Epoch(
            phase=self.phase,
            epoch=log.epoch,
            train_loss=log.loss,
            validation_loss=log.scores.get("loss"),
            validation_error=log.scores.get("error"),
            lr=log.lr,
        )


def fabric_for(runtime: Runtime) -> Fabric:
    """Device, precision and processes as the recipe says; several processes run distributed data parallel."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its notices are no news to who wrote the recipe
    many = runtime.devices * runtime.nodes > 1
    try:
        fabric = Fabric(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            num_nodes=runtime.nodes,
            precision=runtime.precision,
            strategy="ddp" if many else "auto",
        )
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"runtime: not on this machine: {reason(error)}", ("runtime",)) from None
    if many:
        fabric.launch()
    if fabric.device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return fabric
