"""Channels from the command line: what hangs together, a run with and without them, the file read back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tersenet.cli import main

RECIPE = """
model: {factory: nets:make}
data: digits
train: {epochs: 2, lr: 0.003}
stages:
  - {method: prune.channels, budget: {macs: 0.5}, finetune: {epochs: 1, lr: 0.001}}
  - {method: prune.magnitude, sparsity: 0.5}
  - {method: quantize.share, bits: 4}
"""
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.fixed, self.head = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        y = self.fixed(x.mean((2, 3)))
        return self.head(y.reshape(len(y), 16).sort(1).values)

def make():
    return Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_groups_are_listed_with_reasons(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["name"]: row for row in answer(capsys, "plan", "r.yaml", "--groups")["groups"]}  # type: ignore[attr-defined]
    assert found["stem"]["units"] == 8 and found["stem"]["prunable"]
    assert {tensor for tensor, _, role in found["stem"]["members"] if role == "out"} == {"stem.weight", "back.weight"}
    assert {tensor for tensor, _, role in found["inner"]["members"] if role == "in"} == {"back.weight"}
    assert "sort" in found["fixed"]["reason"] and "nets.py:16" in found["fixed"]["reason"]
    assert main(["plan", "r.yaml", "--groups"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"stem +8 +1 +stem, back → inner, fixed", text), text
    assert re.search(r"2 of \d groups can lose units; the others stay whole:\n(.*\n)*fixed +16 +1 +sort at", text), text


def test_a_run_and_the_file_read_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = answer(capsys, "plan", "r.yaml")
    record = answer(capsys, "compress", "r.yaml", "--out", "out")
    figures = record["figures"]
    assert isinstance(figures, dict)
    assert planned["macs"] == figures["macs"]
    assert figures["macs_nonzero"] < 0.5 * figures["macs"]
    assert any("of the MACs are left" in note for note in record["notes"])  # type: ignore[attr-defined]
    measured = answer(capsys, "evaluate", "out/model.terse", "--recipe", "r.yaml", "--split", "test")
    assert measured["error"] == figures["test_error_file"]


def test_masks_come_after_channels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = "stages=[{method: prune.magnitude, sparsity: 0.5}, {method: prune.channels, ratio: 0.5}]"
    assert main(["compress", "r.yaml", "--set", stages]) == 2
    assert "prune.channels cannot follow prune.magnitude on stem.weight" in capsys.readouterr().err
