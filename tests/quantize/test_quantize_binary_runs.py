"""Whole runs with binary and ternary weights: broken off and resumed, and what the file holds."""

import math

import pytest
import torch
from torch import nn

import tersenet
import tersenet.flow.context
from tersenet.flow.progress import Quiet
from tersenet.forms import plain_state

STOCHASTIC = {"method": "quantize.binary", "scale": "none", "stochastic": True}
TTQ = {"method": "quantize.ternary"}


def recipe(stage, seed=0):
    training = {"epochs": 6, "batch_size": 32, "lr": 0.01, "objective": "squared_hinge"}
    stages = [{**stage, "finetune": training}, {"method": "quantize.share", "bits": 3, "finetune": training}]
    return {"stages": stages, "seed": seed}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40, bias=False), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 4, bias=False))


def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 4
    x = 2 * torch.randn(4, 12, generator=generator)[y] + torch.randn(300, 12, generator=generator)
    return {"train": (x[:200], y[:200]), "validation": (x[200:250], y[200:250]), "test": (x[250:], y[250:])}


class BrokenOff(Quiet):
    """Ctrl-C after some epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, log):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", [STOCHASTIC, {**STOCHASTIC, "test": "latent"}, TTQ], ids=str)
def test_broken_off_and_resumed_gives_the_same_bytes(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(tersenet.flow.context, "SAVE_EVERY", 0.0)
    whole = tersenet.compress(net(), recipe(stage), data(), out=tmp_path / "whole")
    for epochs in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            tersenet.compress(
                net(), recipe(stage), data(), out=tmp_path / "broken", resume=epochs == 5, progress=BrokenOff(epochs)
            )
    again = tersenet.compress(net(), recipe(stage), data(), out=tmp_path / "broken", resume=True)
    assert again.file.read_bytes() == whole.file.read_bytes()
    other = tersenet.compress(net(), recipe(stage, seed=1), data(), out=tmp_path / "other")
    assert other.file.read_bytes() != whole.file.read_bytes()


@pytest.mark.parametrize(
    ("stage", "values", "most"),
    [
        ({"method": "quantize.binary", "scale": "none"}, 2, 1),
        ({"method": "quantize.binary", "scale": "tensor"}, 2, 1),
        ({**TTQ, "values": "fixed"}, 3, math.log2(3)),
        (TTQ, 3, math.log2(3)),
    ],
    ids=str,
)
def test_as_few_values_and_bits_in_the_file_as_promised(stage, values, most, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 400), nn.Linear(400, 4))
    options = {"stages": [{**stage, "ignore": ["0", "4"], "finetune": {"epochs": 2, "lr": 0.01}}]}
    outcome = tersenet.compress(model, options, data(), out=tmp_path)
    weight = plain_state(tersenet.load(outcome.file))["3.weight"]
    row = next(row for row in outcome.record.tensors if row.name == "3.weight")
    assert weight.unique().numel() == values and torch.equal(weight, outcome.model[3].weight)
    assert 8 * row.bytes <= most * weight.numel() + 8 * 30
