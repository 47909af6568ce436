"""Two processes with distributed data parallel: the same on both, and what one process gives with both batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys, torch
from lightning_fabric import Fabric
from torch import nn
from tersenet.core.training import Training
from tersenet.data import as_splits
from tersenet.train.loop import fit

devices, out = int(sys.argv[1]), sys.argv[2]
fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
fabric.launch()
generator = torch.Generator().manual_seed(0)
x = torch.randn(64, 5, generator=generator)
y = x @ torch.randn(5, 1, generator=generator)
data = as_splits({"train": (x, y), "validation": (x, y)})
torch.manual_seed(0)
model = nn.Linear(5, 1)
plan = Training(steps=1, batch_size=64 // devices, objective="mse", optimizer="sgd", lr=0.1, schedule="constant")
fit(model, data.train, plan, fabric, seed=1)
torch.save(model.state_dict(), f"{out}-{devices}-{fabric.global_rank}.pt")
"""


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    for devices in (1, 2):
        command = [sys.executable, str(script), str(devices), str(tmp_path / "w")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"w-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name in one:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name])
