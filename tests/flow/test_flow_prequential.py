"""The prequential code: every label once, by a model that has not seen it; lengths in closed form."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tersenet.bounds import doubling
from tersenet.cli import main
from tersenet.core.errors import DataError
from tersenet.data.parts import part_of
from tersenet.data.source import Source
from tersenet.data.streams import DatasetSource, LoaderSource
from tersenet.data.tensors import TensorSource
from tersenet.flow.prequential import by_blocks
from tersenet.measure.accuracy import evaluate
from tersenet.train.objectives import output_of

CLASSES = 4


class Constant(nn.Module):
    """The same probabilities for every input."""

    def __init__(self, probabilities: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", probabilities.double().log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def numbered(labels: torch.Tensor) -> TensorSource:
    """Inputs that tell which example they are."""
    return TensorSource([torch.arange(len(labels))[:, None]], labels)


def seen_in(source: Source) -> list[int]:
    return torch.cat([batch.inputs[0] for batch in source.batches(7)]).reshape(-1).long().tolist()


def loss(model: nn.Module, source: Source) -> float:
    return evaluate(model, source, nn.functional.cross_entropy, output_of)["loss"]


@given(st.integers(1, 500), st.integers(1, 40))
def test_blocks_double_until_all_are_coded(examples: int, first: int) -> None:
    sizes = doubling(examples, first)
    assert sum(sizes) == examples and min(sizes) > 0 and sizes[0] == min(first, examples)
    for place in range(1, len(sizes)):
        before = sum(sizes[:place])
        assert sizes[place] == before or (place == len(sizes) - 1 and sizes[place] < before)


def test_every_label_is_coded_once_by_what_was_coded_before() -> None:
    count, order = 203, torch.randperm(203, generator=torch.Generator().manual_seed(0))
    trained_on: list[list[int]] = []
    coded: list[list[int]] = []

    def trained(examples: Source, seen: int) -> nn.Module:
        trained_on.append(seen_in(examples))
        assert len(trained_on[-1]) == seen
        return Constant(torch.ones(CLASSES))

    def counting(model: nn.Module, examples: Source) -> float:
        coded.append(seen_in(examples))
        return loss(model, examples)

    found = by_blocks(numbered(torch.arange(count) % 4), order, doubling(count, 5), CLASSES, trained, counting)
    first = order[: found.sizes[0]].tolist()
    assert sorted(first + list(chain(*coded))) == list(range(count))
    for place, block in enumerate(coded):
        assert trained_on[place] == first + list(chain(*coded[:place]))
        assert len(block) == found.sizes[place + 1]


def test_constant_probabilities_take_their_logarithms() -> None:
    labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 20 + [3] * 10)
    shares, order = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.arange(100).flip(0)
    found = by_blocks(numbered(labels), order, doubling(100, 8), CLASSES, lambda *_: Constant(shares), loss)
    # the first eight, of class 3, uniformly: 2 bits each; then 40 · 1 + 30 · 2 + 20 · 3 + 2 · 3
    assert found.bits == pytest.approx(8 * 2 + 40 + 60 + 60 + 6)


def test_the_rule_of_succession_in_blocks_of_one() -> None:
    """Counts plus one give the labels (K − 1)! · Π n_k! / (n + K − 1)!, whatever their order (Laplace)."""
    labels = torch.randint(CLASSES, (37,), generator=torch.Generator().manual_seed(3)) ** 2 // 3

    def trained(examples: Source, seen: int) -> nn.Module:
        targets = torch.cat([batch.target for batch in examples.batches(10) if batch.target is not None])
        counts = torch.bincount(targets, minlength=CLASSES) + 1
        return Constant(counts / counts.sum())

    found = by_blocks(numbered(labels), torch.randperm(37), (1,) * 37, CLASSES, trained, loss)
    counts = torch.bincount(labels, minlength=CLASSES).tolist()
    nats = math.lgamma(37 + CLASSES) - math.lgamma(CLASSES) - sum(math.lgamma(n + 1) for n in counts)
    assert found.bits == pytest.approx(nats / math.log(2))


def test_parts_of_tensors_and_of_datasets() -> None:
    source, places = numbered(torch.arange(9) % 3), torch.tensor([7, 2, 5])
    dataset = DatasetSource(TensorDataset(*source.inputs, source.target), "here")  # type: ignore[arg-type]
    for whole in (source, dataset):
        part = part_of(whole, places)
        assert seen_in(part) == [7, 2, 5]
        assert part.example().target is not None and part.example().target.tolist() == [1, 2]
    with pytest.raises(DataError, match="loader"):
        part_of(LoaderSource(DataLoader(dataset.dataset), "here"), places)


RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [24, 12]}}
data: digits
TRAIN
stages:
  - {method: quantize.uniform, bits: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prequential")
    (folder / "r.yaml").write_text(RECIPE.replace("TRAIN", "train: {epochs: 4, batch_size: 16, lr: 3e-3}"))
    (folder / "untrained.yaml").write_text(RECIPE.replace("TRAIN", ""))
    assert main(["compress", str(folder / "r.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bound", str(folder / "out/model.terse"), "--data", "--examples", "8", "--prequential"]
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = answer["prequential"]
    assert sum(found["sizes"]) == answer["certificate"]["examples"] and found["classes"] == 10
    nats = sum(size * loss for size, loss in zip(found["sizes"][1:], found["losses"], strict=True))
    assert found["bits"] == pytest.approx(16 * math.log2(10) + nats / math.log(2))
    assert found["losses"][-1] < 0.7 < found["losses"][0]  # networks learn
    assert found["bits"] < answer["description"]["uniform"]
    assert main([*arguments, "--recipe", str(folder / "r.yaml")]) == 0  # the same networks, from the recipe
    out, err = capsys.readouterr()
    table = out[out.index("Prequential code") :].splitlines()
    last = next(line for line in table if line.startswith("all")).split()
    assert last[1:] == [f"{sum(found['sizes']):,}", f"{found['bits'] / sum(found['sizes']):.3f}",
                        f"{round(found['bits'] / 8):,}"]  # fmt: skip
    assert "training on 16 of" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which --data asks for"),
        (["--data", "--recipe", "untrained.yaml"], "no 'train'"),
        (["--data", "--set", "train.objective=squared_hinge"], "cross_entropy"),
    ],
)
def test_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["bound", "out/model.terse", "--prequential", "--examples", "8", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
