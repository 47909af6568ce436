"""Two processes: one file, one answer on stdout, and both end well."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import tersenet

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [32, 16]}}
data: digits
train: {epochs: 8, batch_size: 16, lr: 0.003}
stages:
  - {method: prune.magnitude, sparsity: 0.5, schedule: gradual, finetune: {epochs: 3, batch_size: 16}}
  - {method: quantize.share, bits: 3, finetune: {epochs: 1}}
runtime: {accelerator: cpu, devices: 2}
"""


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tersenet", "compress", "r.yaml", "--out", "out", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "error:" not in done.stderr
    record = json.loads(done.stdout)
    assert record["figures"]["file_bytes"] == (tmp_path / "out/model.terse").stat().st_size
    assert record["figures"]["test_error_file"] < 0.3
    assert done.stderr.count("1 prune.magnitude") == 1
    assert sum(p.numel() for p in tersenet.load(tmp_path / "out/model.terse").parameters()) == 2778
