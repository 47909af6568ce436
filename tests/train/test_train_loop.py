"""The loop: schedules and penalties by their formulas, and a training that is stopped and resumed is the same one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from tersenet.core.errors import ModelError, TersenetError
from tersenet.core.training import Training
from tersenet.data.source import Batch
from tersenet.train.checkpoint import CheckpointStore, Slot
from tersenet.train.in_full import InFull
from tersenet.train.loop import EpochLog, fit
from tersenet.train.objectives import output_of
from tersenet.train.schedules import rate_factor


@dataclass
class Points:
    """A line with noise, 40 points."""

    x: torch.Tensor
    y: torch.Tensor

    def example(self) -> Batch:
        return Batch((self.x[:2],), self.y[:2])

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        return math.ceil(len(self.x) / batch_size)

    def batches(self, batch_size: int, *, seed: int | None, rank: int, world: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed or 0))
        for places in order.split(batch_size):
            yield Batch((self.x[places],), self.y[places])


def points() -> Points:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    return Points(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(40, 1, generator=generator))


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


PLAN = Training(epochs=6, batch_size=16, objective="mse", lr=0.01)


def test_schedules_are_their_formulas() -> None:
    cosine = Training(epochs=1, schedule="cosine", warmup=0.2)
    assert rate_factor(cosine, 0.1) == pytest.approx(0.5)
    assert rate_factor(cosine, 0.2) == pytest.approx(1.0)
    assert rate_factor(cosine, 0.6) == pytest.approx(0.5)
    assert rate_factor(cosine, 0.4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    step = Training(epochs=1, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [rate_factor(step, t) for t in (0.49, 0.5, 0.75)] == pytest.approx([1, 0.1, 0.01])
    assert rate_factor(Training(epochs=1, schedule="linear"), 0.25) == pytest.approx(0.75)
    assert rate_factor(Training(epochs=1, schedule="constant"), 0.9) == 1.0


def test_it_learns_and_puts_the_flags_back() -> None:
    model = net()
    model[3].eval()
    logs = fit(model, points(), PLAN.model_copy(update={"epochs": 60}), fabric(), seed=1)
    assert len(logs) == 60
    assert logs[-1].loss < 0.1 * logs[0].loss
    assert model.training and not model[3].training


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_one_step_is_that_of_torch(optimizer: str) -> None:
    """One step with L1 and L2, against the penalties written out in the loss (for adamw: decoupled, by its formula)."""
    plan = Training(
        steps=1, batch_size=40, objective="mse", optimizer=optimizer, lr=0.1, l1=0.01, l2=0.02, schedule="constant"
    )
    model, reference = net(), net()
    fit(model, points(), plan, fabric(), seed=1)
    data = points()
    weights = [p for p in reference.parameters() if p.ndim == 2]
    loss = nn.functional.mse_loss(reference(data.x), data.y) + 0.01 * sum(w.abs().sum() for w in weights)
    if optimizer != "adamw":
        loss = loss + 0.01 * sum((w * w).sum() for w in weights)
    loss.backward()
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.Adam}
    if optimizer == "adamw":
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1 - 0.1 * 0.02)
    kinds[optimizer](reference.parameters(), lr=0.1).step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_budget_in_steps_is_kept_exactly() -> None:
    seen: list[tuple[int, int]] = []
    plan = Training(steps=7, batch_size=16, objective="mse")
    fit(net(), points(), plan, fabric(), seed=1, on_step=lambda step, steps: seen.append((step, steps)))
    assert seen == [(step, 7) for step in range(8)]


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    seen: list[int | None] = []

    class Watched(Points):
        def batches(self, batch_size: int, *, seed: int | None, rank: int, world: int) -> Iterator[Batch]:
            seen.append(seed)
            return super().batches(batch_size, seed=seed, rank=rank, world=world)

    data = points()
    for seed in (1, 2, 1):
        fit(net(), Watched(data.x, data.y), PLAN, fabric(), seed=seed)
    assert seen[:6] == seen[12:]
    assert len(set(seen)) == 12


class StopError(Exception):
    """As if the power went."""


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_stopped_and_resumed_is_bit_for_bit_the_unbroken_training(tmp_path: Path, stop_after: int) -> None:
    whole = net(dropout=0.5)
    logs = fit(whole, points(), PLAN, fabric(), seed=3)

    def stop(log: EpochLog) -> None:
        if log.epoch == stop_after + 1:
            raise StopError

    slot = CheckpointStore(tmp_path).slot("a")
    with pytest.raises(StopError):
        fit(net(dropout=0.5), points(), PLAN, fabric(), seed=3, slot=slot, on_epoch=stop)
    steps: list[int] = []
    resumed = net(dropout=0.5)
    torch.rand(7)  # another process stands elsewhere in torch's global stream
    again = fit(resumed, points(), PLAN, fabric(), seed=3, slot=slot, on_step=lambda step, _: steps.append(step))
    assert steps[0] == 3 * stop_after + 1, "it must go on after the last whole epoch, not from the start"
    assert [log.loss for log in again] == [log.loss for log in logs]
    for ours, theirs in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path: Path) -> None:
    slot = CheckpointStore(tmp_path).slot("a")
    first, second = net(), net()
    fit(first, points(), PLAN, fabric(), seed=3, slot=slot)
    fit(second, points(), PLAN, fabric(), seed=3, slot=slot, on_step=lambda *_: pytest.fail("trained again"))
    assert torch.equal(first[0].weight, second[0].weight)


def test_a_damaged_checkpoint_costs_a_repetition_only(tmp_path: Path) -> None:
    slot = CheckpointStore(tmp_path).slot("a")
    first, second = net(), net()
    fit(first, points(), PLAN, fabric(), seed=3, slot=slot)
    assert slot.path is not None
    slot.path.write_bytes(slot.path.read_bytes()[:100])
    fit(second, points(), PLAN, fabric(), seed=3, slot=slot)
    assert torch.equal(first[0].weight, second[0].weight)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot(tmp_path / "a.ckpt")
    slot.save({"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TersenetError, match=r"a\.ckpt: cannot be written: no space left on the disk"):
        slot.save({"n": 2})
    assert slot.load() == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_divergence_is_said_in_one_sentence() -> None:
    with pytest.raises(ModelError, match="diverged in epoch 1"):
        fit(net(), points(), PLAN.model_copy(update={"lr": 1e30, "optimizer": "sgd"}), fabric(), seed=1)


def test_a_frozen_model_is_said_in_one_sentence() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter that can be trained"):
        fit(model, points(), PLAN, fabric(), seed=1)


def test_bf16_trains_on_a_cpu() -> None:
    plan = PLAN.model_copy(update={"epochs": 40})
    logs = fit(net(), points(), plan, Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"), seed=1)
    assert logs[-1].loss < 0.2 * logs[0].loss


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_what_has_no_kernel_in_16_bits_trains_in_32(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaling without aliasing has none; in full precision nothing is looked at on the way."""
    entered = []
    monkeypatch.setattr(InFull, "__enter__", lambda self, old=InFull.__enter__: (entered.append(1), old(self))[1])

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(points().example().inputs[0].shape[1], 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scaled = F.interpolate(self.layer(x)[:, :, None, None], (2, 2), mode="bilinear", antialias=True)
            return scaled.mean((2, 3))

    exact = Fabric(accelerator="cpu", devices=1, precision=precision)
    logs = fit(Scaled(), points(), PLAN.model_copy(update={"epochs": 1}), exact, seed=1)
    assert math.isfinite(logs[-1].loss) and bool(entered) == (precision != "32-true")


def test_outputs_that_models_return() -> None:
    logits = torch.ones(2, 3)
    holder = type("Output", (), {"logits": logits})()
    for result in (logits, (logits, 1), {"logits": logits}, holder):
        assert output_of(result) is logits
    with pytest.raises(ModelError, match="returns str"):
        output_of("x")


def test_convolutions_are_left_in_the_layout_they_had() -> None:
    generator = torch.Generator().manual_seed(0)
    images = Points(torch.randn(20, 3, 6, 6, generator=generator), torch.randn(20, 2, generator=generator))
    for layout in (torch.contiguous_format, torch.channels_last):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).to(memory_format=layout)
        fit(model, images, PLAN, fabric(), seed=1)
        assert model[0].weight.is_contiguous(memory_format=layout)
        assert model[0].weight.is_contiguous() == (layout is torch.contiguous_format)


def test_a_forward_that_needs_the_usual_layout_gets_it() -> None:
    """`view` after a convolution, as in many tutorials, cannot be taken of a tensor with channels last."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(64, 2)
            self.layouts: set[bool] = set()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.layouts.add(x.is_contiguous())
            return self.fc(torch.relu(self.conv(x)).view(-1, 64))  # type: ignore[no-any-return]

    images = Points(torch.randn(20, 3, 6, 6), torch.randn(20, 2))
    model = Viewing()
    fit(model, images, PLAN, fabric(), seed=1)
    assert model.conv.weight.is_contiguous() and True in model.layouts


def test_an_objective_of_the_users_own_is_found_by_name() -> None:
    from tersenet.core.errors import RecipeError
    from tersenet.train.objectives import objective_for

    own = objective_for(Training(epochs=1, objective="torch.nn.functional:l1_loss"))
    assert float(own(torch.tensor([1.0]), torch.tensor([3.0]))) == 2.0
    for wrong, words in (("hinge", "unknown objective 'hinge'"), ("nowhere:f", "no module"), ("math:sine", "'sin'")):
        with pytest.raises(RecipeError, match=words):
            objective_for(Training(epochs=1, objective=wrong))
