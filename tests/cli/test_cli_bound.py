"""`tersenet bound`: from the file alone, with dense weights, with data; and every mistake as one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tersenet
from tersenet import artifact
from tersenet.bounds import kl
from tersenet.cli import main
from tersenet.flow.distortion import rate_bound
from tersenet.forms import decode

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [24, 12]}}
data: digits
train: {epochs: 3, lr: 3e-3}
stages:
  - {method: quantize.uniform, bits: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bound")
    (folder / "r.yaml").write_text(RECIPE)
    assert main(["compress", str(folder / "r.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    torch.manual_seed(0)
    tersenet.save(nn.Sequential(nn.Linear(6, 4)), folder / "plain.terse")
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["bound", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_code_lengths_from_the_file_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "out/model.terse"
    found = answer(capsys, str(file))
    contents, ledger = artifact.read(file), artifact.inspect(file)
    assert (
        found["total"]
        == file.stat().st_size
        == found["overhead"] + sum(row["streams"] + row["others"] for row in found["lengths"])
    )
    for row, stored in zip(found["lengths"], ledger.rows, strict=True):
        assert row["streams"] + row["others"] == stored.values + stored.positions + stored.tables
        assert row["entropy"] == pytest.approx(stored.entropy_bytes if contents.tensors[row["name"]].streams else 0)
        assert row["disk"] == stored.bytes
        assert row["coder_tables"] >= 0
    first = next(row for row in found["lengths"] if row["name"] == "fc1.weight")
    index = contents.tensors["fc1.weight"].streams["index"]
    counts = np.bincount(index.values)
    shares = counts[counts > 0] / counts.sum()
    assert first["entropy"] == pytest.approx(-counts.sum() * float(shares @ np.log2(shares)) / 8)
    tables = sum(table.nbytes for table in contents.tensors["fc1.weight"].tables.values())
    assert first["plain"] == pytest.approx(64 * 24 * math.log2(index.alphabet) / 8 + tables)
    assert 0.9 < first["ratio"] < 1.1
    assert found["certificate"] is None and found["description"] is None


def test_inspect_has_them_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "out/model.terse")
    lengths = answer(capsys, file)["lengths"]
    assert main(["inspect", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bounds"] == lengths
    assert main(["inspect", file]) == 0
    out = capsys.readouterr().out
    assert "ratio" in out and "alphabet" in out and "Bits per weight" in out


def test_with_the_weights_of_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(folder / "out/model.terse"))
    rates = found["rates"]
    assert [row["name"] for row in rates["rows"]] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert not rates["weighted"] and rates["dense"].endswith(".ckpt")
    for row in rates["rows"]:
        assert 0 < row["moved"] < 0.05  # four bits
        assert 0 < row["shannon"] < row["written"]
    # per tensor the error is what it is; divided at best, no more bytes are needed
    assert rates["shannon"] <= sum(row["shannon"] for row in rates["rows"]) + 1e-6
    assert rates["could_save"] == rates["written"] - min(rates["shannon"], rates["laplace"])
    torch.save(torch.load(rates["dense"], weights_only=True)["model"], folder / "dense.pt")
    assert (
        answer(capsys, str(folder / "out/model.terse"), "--dense", str(folder / "dense.pt"))["rates"]["rows"]
        == (rates["rows"])
    )


def test_on_the_training_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "out/model.terse"
    found = answer(capsys, str(file), "--data", "--examples", "64", "--delta", "0.01")
    assert found["rates"]["weighted"] and found["rates"]["byte_worth"] > 0
    proof = found["certificate"]
    assert proof["bits"] == 8 * file.stat().st_size
    nats = (proof["bits"] * math.log(2) + math.log(100)) / proof["examples"]
    assert proof["complexity"] == pytest.approx(nats)
    assert proof["bound"] == 1 or kl(proof["train_error"], proof["bound"]) == pytest.approx(nats)
    description, loss = found["description"], found["loss"]
    assert description["labels"] == pytest.approx(proof["examples"] * loss["file"] / math.log(2))
    assert description["uniform"] == pytest.approx(proof["examples"] * math.log2(10))
    assert loss["predicted"] > 0 and loss["dense"] > 0
    capsys.readouterr()
    assert main(["bound", str(file), "--data", "--examples", "8"]) == 0
    out = capsys.readouterr().out
    for words in ("Ideal code length", "Rate-distortion bound", "could save at most", "predicted", "certificate",
                  "Two-part description length"):  # fmt: skip
        assert words in out
    assert out.count("Assumes") == 5  # each bound says so


def test_labels_are_coded_by_likelihoods_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "--examples", "8", "--set", "train.objective=squared_hinge"]
    found = answer(capsys, str(folder / "out/model.terse"), *arguments)
    assert found["description"] is None
    assert found["certificate"]["train_error"] > 0 and found["rates"]["weighted"]


def test_without_dense_weights_and_without_symbols(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(folder / "plain.terse"))
    assert found["rates"] is None and "--dense" in found["notes"][0]
    assert [row["ratio"] for row in found["lengths"]] == [None, None]


def test_gaussian_weights_with_noise_of_a_known_size() -> None:
    """A source whose rate has a formula: within 0.05 bits a weight of ½·log2(σ² / D)."""
    generator = torch.Generator().manual_seed(0)
    dense = {"w": 0.3 * torch.randn(40, 500, generator=generator)}
    coded = {"w": dense["w"] + 0.03 * torch.randn(40, 500, generator=generator)}
    notes: list[str] = []
    found = rate_bound("here", dense, coded, {"w": 10**5}, None, notes)
    assert found is not None and not notes
    assert 8 * found.shannon / 20_000 == pytest.approx(math.log2(10), abs=0.05)
    assert found.shannon == pytest.approx(found.rows[0].shannon)
    assert rate_bound("here", dense, dense, {"w": 1}, None, notes) is None and "without error" in notes[0]
    far = rate_bound("here", dense, {"w": -dense["w"]}, {"w": 1}, None, notes)
    assert far is not None and far.shannon == 0 and "trained anew" in notes[1]


def test_decoded_weights_are_those_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(folder / "out/model.terse"))["rates"]
    dense = torch.load(found["dense"], weights_only=True)["model"]["fc1.weight"]
    decoded = decode(artifact.read(folder / "out/model.terse").tensors["fc1.weight"])
    moved = float((dense - decoded).square().mean() / dense.var(correction=0))
    assert found["rows"][0]["moved"] == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.terse"], ["none.terse", "no such file"]),
        (["out/model.terse", "--dense", "none.pt"], ["--dense none.pt", "no such file"]),
        (["out/model.terse", "--dense", "r.yaml"], ["--dense r.yaml", "cannot be read"]),
        (["out/model.terse", "--dense", "other.pt"], ["--dense other.pt", "no tensor of a name and shape"]),
        (["out/model.terse", "--dense", "."], ["--dense .", "give its state dict"]),
        (["out/model.terse", "--delta", "1"], ["--delta 1", "as 0.05"]),
        (["out/model.terse", "--examples", "0"], ["--examples 0"]),
        (["out/model.terse", "--recipe", "r.yaml"], ["--recipe", "--data"]),
        (["plain.terse", "--data"], ["plain.terse", "--recipe"]),
    ],
)
def test_mistakes(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(folder)
    torch.save({"a": torch.ones(3)}, "other.pt")
    capsys.readouterr()
    assert main(["bound", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err
