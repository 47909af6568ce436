"""`tersenet export`, `run` and `bench` on a file that `quantize.int8` made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tersenet
from tersenet.cli import main
from tersenet.core.recipe import DataSpec
from tersenet.data import load_data

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [32, 16]}}
data: digits
train: {epochs: 40, lr: 0.005}
stages:
  - {method: quantize.int8}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "r.yaml").write_text(RECIPE)
    assert main(["compress", str(folder / "r.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


@pytest.fixture
def file(folder: Path) -> str:
    return str(next((folder / "out").glob("*.terse")))


def test_accuracy_in_the_runtime_is_that_of_the_file(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (batch,) = load_data(DataSpec.parse({"path": "digits"})).test.batches(10_000)
    logits = tersenet.load(file, runtime="onnx", shapes=["1x8x8"])(*batch.inputs)
    told = {}
    for runtime in (None, "torch", "onnx", "kernels"):
        assert main(["evaluate", file, "--json", *(["--runtime", runtime] if runtime else [])]) == 0
        told[runtime] = json.loads(capsys.readouterr().out)
    assert told[None]["error"] < 0.1
    assert all(abs(one["error"] - told[None]["error"]) <= 0.005 for one in told.values())
    loss = float(torch.nn.functional.cross_entropy(logits, batch.target))  # not that of torch: roundings differ
    assert told["onnx"]["loss"] == pytest.approx(loss, rel=1e-6) != told["torch"]["loss"]


def test_export_then_run(file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", file, str(folder / "m.onnx"), "--input", "1x8x8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runtime"] == "onnx" and told["difference"] < 0.1
    np.save(folder / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    outputs = []
    for runtime in ("torch", "onnx"):
        assert main(["run", file, str(folder / "x.npy"), "--runtime", runtime, "--json"]) == 0
        outputs.append(np.array(json.loads(capsys.readouterr().out)["outputs"][0]))
    assert outputs[0].shape == (3, 10)
    np.testing.assert_allclose(*outputs, rtol=0.05, atol=0.05)


def test_weights_alone_need_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = torch.nn.Linear(6, 2)
    tersenet.save(layer, tmp_path / "layer.terse")
    (tmp_path / "r.yaml").write_text("model: {factory: 'torch.nn:Linear', kwargs: {in_features: 6, out_features: 2}}")
    arguments = ["--recipe", str(tmp_path / "r.yaml")]
    assert main(["export", str(tmp_path / "layer.terse"), str(tmp_path / "w.safetensors"), *arguments]) == 0
    assert torch.equal(load_file(tmp_path / "w.safetensors")["weight"], layer.weight)
    assert main(["export", str(tmp_path / "layer.terse"), str(tmp_path / "m.onnx"), *arguments]) == 2
    assert "nothing tells the shape of its input" in capsys.readouterr().err and not (tmp_path / "m.onnx").exists()


def test_bench_times_dense_beside_compressed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", file, "--batch", "1,4", "--seconds", "0.05", "--input", "1x8x8", "--json"]
    assert main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 2 * 2 * 2
    for row in found["rows"]:
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["throughput"] == pytest.approx(1e3 * row["batch"] / row["p50"])


def test_bench_takes_what_is_installed_unless_told(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["bench", file, "--batch", "1", "--seconds", "0.02", "--json"]
    assert main(arguments) == 0
    (both,) = json.loads(capsys.readouterr().out)
    assert {row["runtime"] for row in both["rows"]} == {"torch", "onnx"} and not both["notes"]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(arguments) == 0
    (alone,) = json.loads(capsys.readouterr().out)
    assert {row["runtime"] for row in alone["rows"]} == {"torch"} and "tersenet[onnx]" in alone["notes"][-1]


def test_bench_of_a_network_without_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide, narrow = (torch.nn.Sequential(torch.nn.Linear(6, n), torch.nn.Linear(n, 2)) for n in (40, 4))
    files = [str(tmp_path / name) for name in ("narrow.terse", "wide.terse")]
    for model, file in zip((narrow, wide), files, strict=True):
        tersenet.save(model, file, example=torch.randn(2, 6))
    arguments = ["bench", files[0], "--runtime", "torch,onnx", "--batch", "3", "--seconds", "0.02", "--json"]
    assert main(arguments) == 0
    (alone,) = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in alone["rows"]] == ["compressed"] * 2 and "--dense" in alone["notes"][0]
    assert main([*arguments, "--dense", files[1]]) == 0
    (both,) = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in both["rows"]] == ["compressed", "dense"] * 2 and not both["notes"]
    assert both["exported_bytes"]["compressed onnx"] < both["exported_bytes"]["dense onnx"]


def test_kernels_run_what_torch_runs(file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "k.npy", np.random.default_rng(0).random((3, 1, 8, 8), np.float32))
    outputs = []
    for runtime in ("torch", "kernels"):
        assert main(["run", file, str(folder / "k.npy"), "--runtime", runtime, "--json"]) == 0
        outputs.append(np.array(json.loads(capsys.readouterr().out)["outputs"][0]))
    np.testing.assert_allclose(*outputs, rtol=0.05, atol=0.05)


def test_bench_as_a_page(file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", file, "--runtime", "torch,kernels", "--batch", "1", "--seconds", "0.02", "--input", "1x8x8"]
    assert main([*arguments, "--html", str(folder / "bench.html")]) == 0
    assert "kernels" in capsys.readouterr().out
    page = (folder / "bench.html").read_text()
    assert page.count('<rect class="k-values"') == 3 and "kernels, batch 1, 1 thread" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "FILE", "none.npy"], "none.npy: no such file"),
        (["run", "FILE", "EMPTY"], "holds no array"),
        (["run", "FILE", "LINE"], "an input of shape [5] has one axis; the first is the batch"),
        (["run", "FILE", "X", "--out", "/nowhere/out.npz"], "cannot be written: no such file or folder"),
        (["run", "FILE", "X", "--runtime", "tpu"], "there is no runtime 'tpu'"),
        (["evaluate", "FILE", "--runtime", "tpu"], "there is no runtime 'tpu'"),
        (["export", "FILE", "m.xyz", "--input", "1x8x8"], "the ending says the format"),
        (["export", "FILE", "m.onnx", "--input", "1x5x5"], "cannot compute with inputs"),
        (["bench", "FILE", "--batch", "x"], "--batch x: must be whole numbers"),
        (["bench", "FILE", "--seconds", "0", "--input", "1x8x8"], "must be positive"),
    ],
)
def test_mistakes(
    arguments: list[str], sentence: str, file: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(folder / "X.npy", np.zeros((1, 1, 8, 8), np.float32))
    np.save(folder / "line.npy", np.zeros(5, np.float32))
    np.savez(folder / "empty.npz")
    places = {"X": "X.npy", "LINE": "line.npy", "EMPTY": "empty.npz"}
    words = {"FILE": file, **{word: str(folder / name) for word, name in places.items()}}
    assert main([words.get(word, word) for word in arguments]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1


def test_a_network_that_torch_defines(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    tersenet.save(model, tmp_path / "m.terse", example=torch.randn(2, 6))
    x = torch.randn(5, 6)
    for shapes in (["6"], []):  # which the file knows, too
        session = tersenet.load(tmp_path / "m.terse", runtime="onnx", shapes=shapes)
        torch.testing.assert_close(session(x), model(x).detach(), rtol=1e-2, atol=1e-2)
