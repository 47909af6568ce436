"""The one training loop. It knows batches, an objective and a budget; what else should happen comes as callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.seeds import derive
from tersenet.core.training import Training
from tersenet.train.checkpoint import Slot
from tersenet.train.in_full import InFull
from tersenet.train.layout import Layout
from tersenet.train.objectives import objective_for, output_of
from tersenet.train.optimizers import add_l1_gradient, optimizer_for, weights_and_rest
from tersenet.train.schedules import rate_factor
from tersenet.train.teacher import Teachers


class Batches(Protocol):
    """What the loop needs of a training set (`data.Source` is one)."""

    def example(self) -> Any: ...

    def batch_count(self, batch_size: int, world: int = 1) -> int: ...

    def batches(self, batch_size: int, *, seed: int | None, rank: int, world: int) -> Iterator[Any]: ...


@dataclass(frozen=True)
class EpochLog:
    """One epoch: mean training loss, highest learning rate in it, seconds since the training began."""

    epoch: int
    epochs: int
    loss: float
    lr: float
    seconds: float
    scores: dict[str, float]


def fit(
    model: nn.Module,
    source: Batches,
    training: Training,
    fabric: Fabric,
    *,
    seed: int,
    slot: Slot | None = None,
    save_every: float = 0.0,
    on_step: Callable[[int, int], None] | None = None,
    penalty: Callable[[int, int], torch.Tensor] | None = None,
    teachers: Teachers | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    scores: Callable[[nn.Module], dict[str, float]] | None = None,
) -> list[EpochLog]:
    """Train `model` in place for the whole budget and keep the last step, never the best.

    on_step(step, steps): before the first step (0) and after each; may change masks and the like, which must live in
        the model's buffers. penalty(step, steps): a scalar of the parameters that the step after `step` adds to the
        loss, which is logged without it. teachers: whose predictions are targets too. scores(model): figures for the
        log after each epoch. slot: where to save and to go on from, after an epoch if `save_every` seconds have passed,
        and at the end; a finished training is not repeated.
    Batches, dropout and augmentation of an epoch depend on `seed` and the epoch alone, so a resumed training takes the
    very steps of an unbroken one.
    """
    slot = slot or Slot(None)
    per_epoch = source.batch_count(training.batch_size, fabric.world_size)
    steps = training.steps if training.steps is not None else (training.epochs or 0) * per_epoch
    epochs = math.ceil(steps / per_epoch)
    flags = {module: module.training for module in model.modules()}
    model.to(fabric.device)
    layout = Layout(model, lambda: source.example().to(fabric.device).inputs)
    optimizer = optimizer_for(model, training)
    logs, first = _resume(model, optimizer, slot)
    if first < epochs or epochs == 0:
        wrapped, ready = fabric.setup(model, optimizer)
        loop = _Loop(model, wrapped, ready, training, fabric, steps, layout, on_step, penalty, teachers)
        if first == 0 and on_step:
            on_step(0, steps)
        started = time.perf_counter() - (logs[-1].seconds if logs else 0.0)
        saver = Clock(fabric)
        for epoch in range(first, epochs):
            loss, rate = loop.epoch(source, epoch, per_epoch, derive(seed, "epoch", epoch))
            figures = scores(model) if scores else {}
            logs.append(EpochLog(epoch + 1, epochs, loss, rate, time.perf_counter() - started, figures))
            if on_epoch:
                on_epoch(logs[-1])
            if epoch + 1 == epochs:
                _save(fabric, slot, model, None, logs)
            elif saver.due(save_every):
                _save(fabric, slot, model, optimizer, logs)
    for module, flag in flags.items():
        module.training = flag
    layout.restore(model)
    return logs


class _Loop:
    """State of one training between epochs."""

    def __init__(
        self,
        model: nn.Module,
        wrapped: Any,
        optimizer: Any,
        training: Training,
        fabric: Fabric,
        steps: int,
        layout: Layout,
        on_step: Callable[[int, int], None] | None,
        penalty: Callable[[int, int], torch.Tensor] | None,
        teachers: Teachers | None,
    ) -> None:
        self.wrapped, self.optimizer, self.layout = wrapped, optimizer, layout
        self.training, self.fabric, self.steps, self.on_step = training, fabric, steps, on_step
        self.loss, self.penalty, self.teachers = objective_for(training), penalty, teachers
        self.weights = weights_and_rest(model)[0] if training.l1 else []
        with fabric.autocast():
            self.in_full = InFull() if torch.is_autocast_enabled("cpu") else nullcontext()

    def epoch(self, source: Batches, epoch: int, per_epoch: int, seed: int) -> tuple[float, float]:
        """Mean loss and highest learning rate of one epoch (the last may be cut short by the budget)."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        total, highest, step = torch.zeros((), device=self.fabric.device), 0.0, epoch * per_epoch
        first = step
        self.wrapped.train()
        with torch.random.fork_rng(devices=_cuda_devices(self.fabric)):
            torch.manual_seed(derive(seed, "dropout", rank))
            for batch in source.batches(self.training.batch_size, seed=seed, rank=rank, world=world):
                if step >= self.steps:
                    break
                rate = self.training.lr * rate_factor(self.training, step / self.steps)
                total += self.step(batch.to(self.fabric.device), rate, step)
                highest, step = max(highest, rate), step + 1
                if self.on_step:
                    self.on_step(step, self.steps)
        mean = float(total) / max(1, step - first)
        if not math.isfinite(mean):
            raise ModelError(f"training diverged in epoch {epoch + 1}: the loss is {mean}; a lower lr may help")
        return mean, highest

    def step(self, batch: Any, rate: float, step: int) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        inputs = self.layout.inputs(batch.inputs)
        with self.in_full:
            output = output_of(self.wrapped(*inputs))
            loss = self.loss(output, batch.target)
        if self.teachers is not None:
            with self.fabric.autocast():
                loss = self.teachers.loss(loss, output, inputs)
        self.fabric.backward(loss if self.penalty is None else loss + self.penalty(step, self.steps))
        if self.training.l1:
            add_l1_gradient(self.weights, self.training.l1)
        if self.training.clip_norm is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.training.clip_norm)
        self.optimizer.step()
        return loss.detach()


class Clock:
    """Says on every rank alike whether it is time again; the first process's watch counts."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.last = fabric, time.monotonic()

    def due(self, seconds: float) -> bool:
        passed = time.monotonic() - self.last >= seconds
        if self.fabric.world_size > 1:
            passed = bool(self.fabric.broadcast(passed))
        self.last = time.monotonic() if passed else self.last
        return passed


def _cuda_devices(fabric: Fabric) -> list[int]:
    return [fabric.device.index or 0] if fabric.device.type == "cuda" else []


def _save(
    fabric: Fabric, slot: Slot, model: nn.Module, optimizer: torch.optim.Optimizer | None, logs: list[EpochLog]
) -> None:
    """A finished training is saved without its optimizer: only its result is needed again."""
    if fabric.is_global_zero:
        state = {"model": model.state_dict(), "logs": [vars(log) for log in logs]}
        slot.save(state if optimizer is None else {**state, "optimizer": optimizer.state_dict()})
    fabric.barrier()


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, slot: Slot) -> tuple[list[EpochLog], int]:
    """Load what the slot holds; returns the logs so far and the epoch to go on with."""
    state = slot.load()
    if state is None:
        return [], 0
    model.load_state_dict(state["model"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    logs = [EpochLog(**log) for log in state["logs"]]
    return logs, logs[-1].epoch
