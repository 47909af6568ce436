"""A user's own model and data, named by factories in the folder they work in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tersenet.cli import main

CODE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Two inputs, an embedding, a shared weight and a buffer."""

    def __init__(self, width):
        super().__init__()
        self.words = nn.Embedding(20, width)
        self.mix = nn.Linear(width + 3, width)
        self.out = nn.Linear(width, 20)
        self.out.weight = self.words.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, word, numbers):
        return self.out(torch.tanh(self.mix(torch.cat([self.words(word), self.scale * numbers], 1))))

def make(width):
    return Net(width)

def splits(n):
    generator = torch.Generator().manual_seed(0)
    def part():
        word = torch.randint(20, (n,), generator=generator)
        return word, torch.randn(n, 3, generator=generator), (word + 1) % 20
    return {"train": part(), "validation": part(), "test": part()}
'''

RECIPE = """
model: {factory: OWN:make, kwargs: {width: 32}}
data: {factory: OWN:splits, kwargs: {n: 600}, normalize: false}
train: {epochs: 30, batch_size: 32, lr: 0.01}
stages:
  - method: prune.magnitude
    sparsity: {words: 0.3, mix: 0.7}
    finetune: {epochs: 10, batch_size: 32, lr: 0.005}
  - method: quantize.share
    bits: {words: 6, mix: 4}
    finetune: {epochs: 5, batch_size: 32, lr: 0.002}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"own_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("OWN", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return tmp_path


def test_factories_of_the_users_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "r.yaml"]) == 0
    assert "words.weight" in capsys.readouterr().out
    assert main(["compress", "r.yaml", "--out", "out", "--quiet", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["figures"]["test_error_file"] < 0.05
    assert {row["name"] for row in record["tensors"]} == {"words.weight", "mix.weight", "mix.bias", "out.bias", "scale"}
    assert main(["evaluate", "out/model.terse", "--recipe", "r.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == record["figures"]["test_error_file"]


def test_a_file_of_a_users_model_is_evaluated_without_its_source(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "r.yaml", "--out", "out", "--quiet", "--json", "--set", "train.epochs=1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "out/model.terse", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == record["figures"]["test_error_file"]
    assert main(["inspect", "out/model.terse"]) == 0


def test_an_image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (level + generator.integers(-40, 40, (8, 8))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "r.yaml").write_text(
        "model: {name: mlp, kwargs: {inputs: 64, hidden: [8], classes: 2}}\n"
        "data: {path: images, validation: 0.2}\n"
        "train: {epochs: 10, batch_size: 8, lr: 0.01}\n"
        "stages:\n  - {method: quantize.share, bits: 3}\n"
    )
    assert main(["compress", "r.yaml", "--out", "out", "--quiet", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["figures"]["test_error_file"] == 0
    assert record["data"] == "images"
    assert main(["evaluate", "out/model.terse", "--json"]) == 0, "the folder still lies where the file says"
    assert json.loads(capsys.readouterr().out)["same_data_as_trained_on"] is True
