"""`tersenet profile`: of a model, a recipe and a file, as text, JSON and page; and every mistake as one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import tersenet
from tersenet.cli import main

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [16, 8]}}
data: digits
train: {epochs: 1}
stages:
  - {method: prune.magnitude, sparsity: 0.5}
  - {method: quantize.uniform, bits: 4}
"""
DENSE = 64 * 16 + 16 * 8 + 8 * 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and the file that it makes; a file of a Python object with its operators, and one without."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "r.yaml").write_text(RECIPE)
    assert main(["compress", str(folder / "r.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    tersenet.save(model, folder / "graph.terse", example=torch.randn(2, 6))
    tersenet.save(model, folder / "plain.terse")
    (folder / "bare.yaml").write_text("model: {factory: 'torch.nn:Linear', kwargs: {in_features: 6, out_features: 2}}")
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["profile", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "lenet_300_100", "--batch", "4", "--sort", "macs", "--top", "2")
    assert found["totals"]["here"]["macs"] == 4 * 266_200
    assert found["inputs"] == ["4×1×28×28 float32"]
    assert [layer["name"] for layer in found["layers"]] == ["fc1", "fc2"]
    first = found["layers"][0]
    assert first["intensity"] == pytest.approx(2 * first["dense"]["macs"] / (235_500 * 4 + 4 * (784 + 300) * 4))
    seconds = (2 * first["dense"]["macs"] / found["roof"]["flops"], (235_500 + 4336) * 4 / found["roof"]["bandwidth"])
    assert first["least"] == pytest.approx(max(seconds))
    assert first["bound"] == ("arithmetic" if seconds[0] >= seconds[1] else "weights")
    assert first["dense"]["seconds"] > 0
    assert found["file"] is None and not found["notes"]


def test_arguments_of_a_model_of_the_zoo_tell_its_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "lenet_300_100", "--set", "model.kwargs.inputs=64")["inputs"] == ["1×64 float32"]
    assert answer(capsys, "mobilenet_v1", "--set", "model.kwargs={image: 32}")["inputs"] == ["1×3×32×32 float32"]


def test_a_recipe_and_an_input_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(folder / "r.yaml"))
    assert (found["totals"]["here"]["macs"], found["inputs"]) == (DENSE, ["1×1×8×8 float32"])
    found = answer(capsys, "resnet20", "--input", "3,16,16")
    assert found["inputs"] == ["1×3×16×16 float32"]
    found = answer(capsys, "mlp_1x100", "--set", "model.kwargs.inputs=10", "--input", "10")
    assert found["totals"]["here"]["macs"] == 10 * 100 + 100 * 10


def test_a_file_beside_its_dense_network(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "out/model.terse"
    found = answer(capsys, str(file))
    here, dense = found["totals"]["here"], found["totals"]["dense"]
    assert dense["macs"] == dense["nonzero"] == here["macs"] == DENSE
    assert here["nonzero"] == DENSE // 2
    capsys.readouterr()
    assert main(["inspect", str(file), "--json"]) == 0
    ledger = json.loads(capsys.readouterr().out)
    for layer in found["layers"]:
        own = [row for row in ledger["rows"] if row["name"].startswith(f"{layer['name']}.")]
        parts = ("values", "positions", "tables", "header")
        assert layer["file"]["bytes"] == sum(row[part] for row in own for part in parts)
    assert found["file"]["bytes"] == file.stat().st_size == here["bytes"] + ledger["header_bytes"]
    assert here["energy"]["weights"] == pytest.approx(here["bytes"] / 4 * 640)
    assert here["energy"]["arithmetic"] == pytest.approx(DENSE // 2 * 4.6)
    quantized = answer(capsys, str(file), "--integer-activations", "--sram", "1000000")
    assert quantized["totals"]["here"]["energy"]["arithmetic"] == pytest.approx(DENSE // 2 * 3.2)
    assert quantized["totals"]["here"]["energy"]["weights"] == pytest.approx(here["bytes"] / 4 * 5)
    assert quantized["totals"]["dense"]["energy"]["arithmetic"] == pytest.approx(DENSE * 4.6)


def test_rounded_inputs_make_the_arithmetic_that_of_integers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE + "  - {method: quantize.activations, targets: [fc1]}\n")
    assert main(["compress", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    found = answer(capsys, str(tmp_path / "out/model.terse"))
    for layer in found["layers"]:
        each = 3.2 if layer["name"] == "fc1" else 4.6
        assert layer["file"]["energy"]["arithmetic"] == pytest.approx(layer["file"]["nonzero"] * each)


def test_a_file_that_holds_its_operators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(folder / "graph.terse"), "--batch", "3")  # the file knows the shape of its input
    assert [(layer["name"], layer["file"]["macs"]) for layer in found["layers"]] == [("0", 72), ("", 0), ("2", 24)]
    assert [layer["file"]["outputs"] for layer in found["layers"]] == [12, 6, 6]
    assert found["file"]["seconds"] > 0 and found["layers"][0]["file"]["seconds"] is None


def test_the_run_has_the_same_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "out/record.json").read_text())
    found = answer(capsys, str(folder / "out/model.terse"))
    assert [layer["name"] for layer in record["layers"]] == [layer["name"] for layer in found["layers"]]
    for mine, theirs in zip(found["layers"], record["layers"], strict=True):
        assert {**mine["file"], "seconds": None} == theirs["file"]
    assert sum(layer["file"]["nonzero"] for layer in record["layers"]) == record["figures"]["macs_nonzero"]
    assert "What each layer costs" in (folder / "out/report.html").read_text()


def test_text_and_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "p.html"
    capsys.readouterr()
    arguments = ["--sort", "dense_energy", "--top", "2", "--html", str(page)]
    assert main(["profile", str(folder / "out/model.terse"), *arguments]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ["layer", "fc1", "fc2", "…"]
    assert "an estimate" in out and "measured now" in out and f"page: {page}" in out
    assert "Roofline" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet6"], ["unknown model 'lenet6'", "did you mean 'lenet5'"]),
        (["none.terse"], ["none.terse", "no such file"]),
        (["none.yaml"], ["none.yaml", "no such recipe"]),
        (["damaged.terse"], ["damaged.terse", "truncated"]),
        (["text.terse"], ["text.terse", "not a .terse file"]),
        (["plain.terse", "--input", "6"], ["plain.terse", "--recipe"]),
        (["bare.yaml"], ["bare.yaml", "--input 3x32x32"]),
        (["graph.terse", "--input", "7"], ["graph.terse: cannot take an input of 1×7 float32"]),
        (["lenet5", "--input", "1x3x3"], ["lenet5: cannot take an input of 1×1×3×3 float32", "Kernel size"]),
        (["lenet5", "--input", "3x28x28"], ["1×3×28×28"]),
        (["lenet5", "--input", "1x28x28:int8x"], ["--input 1x28x28:int8x", "as 3x224x224"]),
        (["lenet5", "--input", "99999999x99999999"], ["--input 99999999x99999999"]),
        (["lenet5", "--batch", "0"], ["--batch 0", "at least 1"]),
        (["lenet5", "--sram", "-1"], ["--sram -1", "at least 0"]),
        (["lenet5", "--recipe", "r.yaml"], ["--recipe r.yaml", "lenet5 is not"]),
        (["lenet5", "--set", "model.kwargs.classs=3"], ["classs", "did you mean 'classes'"]),
        (["mlp_1x100", "--sort", "mac"], ["--sort mac", "did you mean 'macs'"]),
        (["mlp_1x100", "--top", "0"], ["--top 0"]),
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
    Path("damaged.terse").write_bytes(Path("out/model.terse").read_bytes()[:300])
    Path("text.terse").write_text("not a model")
    capsys.readouterr()
    assert main(["profile", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err
