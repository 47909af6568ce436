"""How long the training loop takes: LeNet-300-100, 55,000 images of 28×28, 20 epochs at batch 128.

    python benchmarks/training.py [--epochs 20] [--json]

The images are noise, since time does not depend on what is in them. Beside it, in the same run, the same steps in a
bare loop of plain PyTorch: the ratio says what the loop's callbacks, checks and Fabric cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch
from torch import nn

from tersenet.core.recipe import ModelSpec, Runtime
from tersenet.core.training import Training
from tersenet.data import as_splits
from tersenet.flow.context import fabric_for
from tersenet.models import build
from tersenet.train.loop import fit

IMAGES, BATCH = 55_000, 128


def noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, 1, 28, 28, generator=generator), torch.randint(10, (IMAGES,), generator=generator)


def ours(x: torch.Tensor, y: torch.Tensor, epochs: int) -> float:
    splits = as_splits({"train": (x, y), "validation": (x[:100], y[:100])})
    plan = Training(epochs=epochs, batch_size=BATCH, optimizer="sgd", lr=0.01, l2=5e-4)
    model, fabric = build(ModelSpec(name="lenet_300_100"), 0), fabric_for(Runtime(accelerator="cpu"))
    begun = time.perf_counter()
    fit(model, splits.train, plan, fabric, seed=0)
    return time.perf_counter() - begun


def bare(x: torch.Tensor, y: torch.Tensor, epochs: int) -> float:
    model = build(ModelSpec(name="lenet_300_100"), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    begun = time.perf_counter()
    for _ in range(epochs):
        for places in torch.randperm(IMAGES).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[places]), y[places]).backward()
            optimizer.step()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    x, y = noise()
    ours(x, y, 1), bare(x, y, 1)  # warm up
    halves = [max(1, arguments.epochs // 2), arguments.epochs - max(1, arguments.epochs // 2)]
    seconds = {"tersenet": 0.0, "bare loop": 0.0}
    for epochs in filter(None, halves):  # in turn, so that noise of the machine hits both
        seconds["tersenet"] += ours(x, y, epochs)
        seconds["bare loop"] += bare(x, y, epochs)
    ratio = seconds["tersenet"] / seconds["bare loop"]
    if arguments.json:
        print(json.dumps({"epochs": arguments.epochs, "seconds": seconds, "ratio": ratio}))
        return
    print(
        f"LeNet-300-100, {IMAGES:,} images, {arguments.epochs} epochs, batch {BATCH}, {torch.get_num_threads()} threads"
    )
    for name, value in seconds.items():
        print(f"  {name:10} {value:6.1f} s")
    print(f"  ratio      {ratio:6.2f}")


if __name__ == "__main__":
    main()
