"""Models that compute something else in training, draw random numbers, or write to their own buffers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import ModelError
from tersenet.graph import ChannelGraph, remove, try_out

PICTURE = (2, 3, 6, 6)


class Net(nn.Module):
    """Two convolutions and a classifier, with a head for training alone, noise, and buffers it writes to."""

    def __init__(self, *, auxiliary: bool = False, noise: bool = False, counts: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.head = nn.Linear(8, 4)
        self.auxiliary, self.noise, self.counts = auxiliary, noise, counts
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.a(x))
        if self.counts:
            self.calls += 1
            self.seen.mul_(0.9).add_(first.detach().mean((0, 2, 3)))
        if self.noise:
            first = first + torch.randn_like(first)
        out: torch.Tensor = self.out(F.relu(self.b(first)).mean((2, 3)))
        return out + self.head(first.mean((2, 3))) if self.auxiliary and self.training else out


def made(**kwargs: bool) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    return Net(**kwargs), torch.randn(PICTURE)


def test_channels_that_a_head_reads_in_training_alone_stay() -> None:
    model, x = made(auxiliary=True)
    graph = ChannelGraph(model, x)
    done = remove(model, graph, {"a": [0, 1], "b": [0, 1]})
    assert list(done.removed) == ["b"]
    assert "in training" in done.refused["a"] and "in training" in (graph["a"].reason or "")
    assert model.train()(x).shape == (2, 4)


def test_an_unused_head_does_not_hold_channels() -> None:
    model, x = made()
    done = remove(model, ChannelGraph(model, x), {"a": [0, 1], "b": [0, 1]})
    assert list(done.removed) == ["a", "b"] and not done.refused


def test_layers_that_no_operator_reads_cannot_go() -> None:
    model, x = made()
    unused = [group for group in ChannelGraph(model, x) if group.members[0].tensor.startswith("head.")]
    assert unused and all(group.reason == "no operator uses it" for group in unused)


def test_a_model_that_draws_noise_is_compared_under_the_same_noise() -> None:
    model, x = made(noise=True)
    before = torch.get_rng_state()
    graph = ChannelGraph(model, x)
    done = remove(model, graph, {"b": [0, 1]})
    assert list(done.removed) == ["b"] and done.difference < 2e-5 < done.change
    assert "random numbers" in (graph["a"].reason or "")
    assert torch.equal(before, torch.get_rng_state())


def test_buffers_that_the_forward_writes_to_are_left_as_they_were() -> None:
    model, x = made(counts=True)
    model(x)
    seen, calls = model.seen.clone(), model.get_buffer("calls")
    done = remove(model, ChannelGraph(model, x), {"a": [0, 1]})
    assert list(done.removed) == ["a"]
    assert model.calls is calls and calls == 1
    assert torch.equal(model.seen, seen[2:])


class Mixing(nn.Module):
    """Channels become a sequence: one layer's constant goes through another that loses inputs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.u, self.v = nn.Conv2d(3, 8, 3), nn.Linear(16, 12), nn.Linear(8, 6)
        self.f = nn.Linear(6 * 12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.u(F.relu(self.c(x)).flatten(2)))  # [B, 8, 12]
        out: torch.Tensor = self.f(F.relu(self.v(x.transpose(1, 2))).flatten(1))
        return out


def test_constants_are_those_of_the_network_with_all_masks() -> None:
    torch.manual_seed(0)
    model, x = Mixing(), torch.randn(PICTURE)
    done = remove(model, ChannelGraph(model, x), {"c": [0, 1], "u": [0, 1, 2], "v": [4]})
    assert list(done.removed) == ["c", "u", "v"] and done.dropped and done.folded and done.difference < 2e-5


def test_an_optimizer_whose_state_cannot_be_cut_is_told_before_anything_changes() -> None:
    model, x = made()
    optimizer = torch.optim.Adafactor(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    with pytest.raises(ModelError, match=r"Adafactor keeps .* make a new optimizer after the removal"):
        remove(model, ChannelGraph(model, x), {"a": [0]}, optimizer=optimizer)
    assert model.a.out_channels == 8


def test_a_model_that_keeps_an_activation_with_its_history_is_copied() -> None:
    model, x = made()
    model.last = F.relu(model.a(x))  # type: ignore[assignment]
    twin = copied(model)
    assert torch.equal(twin.last, model.last) and twin.last.grad_fn is None  # type: ignore[arg-type, union-attr]
    assert twin.a.weight is not model.a.weight and torch.equal(twin(x), model(x))
    assert not try_out(model, ChannelGraph(model, x)).refused


def test_what_cannot_be_followed_is_told_in_one_sentence_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match=r"torch.export cannot follow Branching"):
        ChannelGraph(Branching(), torch.randn(PICTURE))
    assert capfd.readouterr() == ("", "")
