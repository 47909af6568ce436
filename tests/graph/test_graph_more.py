"""Models that compute something else in training, draw random numbers, or write to their own buffers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tersenet.graph import ChannelGraph, remove

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
