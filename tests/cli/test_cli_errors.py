"""Every mistake of a user: exit code 2, one sentence on stderr, no traceback, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tersenet.cli import main

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [16, 8]}}
data: digits
train: {epochs: 1}
stages:
  - {method: prune.magnitude, sparsity: 0.5}
  - {method: quantize.share, bits: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["stages.0.sparsity=1.0"], ["stages[0].sparsity"]),
        (["stages.0.sparsity=-0.1"], ["stages[0].sparsity"]),
        (["stages.0.sparsity=.nan"], ["stages[0].sparsity"]),
        (["stages.0.sparsty=0.5"], ["did you mean 'sparsity'"]),
        (["stages.0.method=prune.magnitide"], ["did you mean 'prune.magnitude'"]),
        (["stages.0.targets=[fc7]"], ["fc7", "r.yaml, line 6"]),
        (["stages.0.method=quantize.share", "stages.0.sparsity=null"], ["stages[0]"]),
        (["model=lenet6"], ["lenet6", "did you mean 'lenet5'"]),
        (["model.kwargs.hiden=[3]"], ["hiden", "hidden"]),
        (["model=null"], ["'model' is missing"]),
        (["data=null"], ["'data' is missing"]),
        (["data.path=no/such/folder"], ["no/such/folder"]),
        (["model.factory=nowhere:make", "model.name=null", "model.kwargs={}"], ["nowhere"]),
        (["model.factory=os:getcwd", "model.name=null", "model.kwargs={}"], ["os:getcwd", "Module"]),
        (["model.factory=os:listdir", "model.name=null", "model.kwargs={}", "model.kwargs.path=/none"], ["os:listdir"]),
        (["model.kwargs.inputs=63"], ["shape"]),
        (["model.kwargs.classes=9"], ["9"]),
        (["data.validation=99999"], ["validation"]),
        (["runtime.accelerator=mps"], ["runtime", "not on this machine"]),
        (["train.optimizer=sgd", "train.nesterov=true", "train.momentum=0"], ["nesterov"]),
    ],
)
def test_wrong_recipes(here: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    message = refused(capsys, "compress", "r.yaml", "--out", "out", *arguments)
    for word in words:
        assert word in message
    assert not (here / "out" / "model.terse").exists()


def test_stages_in_an_impossible_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = RECIPE.splitlines()
    (here / "r.yaml").write_text("\n".join([*lines[:5], lines[6], lines[5]]))
    message = refused(capsys, "compress", "r.yaml")
    assert "cannot follow" in message
    assert "r.yaml, line 7" in message
    assert not (here / "runs").exists()


def images(folder: Path, size: int = 8, classes: tuple[str, ...] = ("a", "b"), each: int = 12) -> Path:
    for split in ("train", "test"):
        for label in classes:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                Image.fromarray(np.full((size, size), 16 * number, np.uint8)).save(
                    folder / split / label / f"{number}.png"
                )
    return folder


def test_wrong_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = here / "empty"
    empty.mkdir()
    assert "empty" in refused(capsys, "compress", "r.yaml", "--set", "data.path=empty")
    images(here / "large", size=16)
    message = refused(capsys, "compress", "r.yaml", "--set", "data.path=large")
    assert "16" in message
    images(here / "mixed")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(here / "mixed/train/a/odd.png")
    assert "mixed" in refused(capsys, "compress", "r.yaml", "--set", "data.path=mixed")
    images(here / "broken")
    (here / "broken/train/a/0.png").write_bytes(b"no image")
    assert "0.png" in refused(capsys, "compress", "r.yaml", "--set", "data.path=broken")


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_wrong_files(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "none.terse" in refused(capsys, command, "none.terse")
    (here / "text.terse").write_text("not a model")
    assert "text.terse" in refused(capsys, command, "text.terse")
    (here / "zero.terse").touch()
    assert "zero.terse" in refused(capsys, command, "zero.terse")
    assert refused(capsys, command, str(here))


def test_wrong_folders_for_the_output(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("mine")
    assert "file" in refused(capsys, "compress", "r.yaml", "--out", "file")
    assert (here / "file").read_text() == "mine"
    assert "none" in refused(capsys, "report", "none")


@pytest.mark.parametrize("name", ["recipe.yaml", "model.terse", "report.html", "checkpoints/last.ckpt"])
def test_files_of_the_users_own_are_not_replaced(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text("mine")
    message = refused(capsys, "compress", "r.yaml", "--out", ".")
    assert name.split("/")[0] in message
    assert (here / name).read_text() == "mine"


def test_the_folder_of_a_run_may_be_used_again(here: Path) -> None:
    for _ in range(2):
        assert main(["compress", "r.yaml", "--out", "out", "--quiet", "--json"]) == 0


def test_wrong_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'quantize.share'" in refused(capsys, "methods", "quantize.shar")
    assert "deep_compression" in refused(capsys, "reproduce", "deep_compresion")


def test_the_whole_way_with_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compress, inspect, evaluate, plan, methods and report: one JSON object each, and they agree."""

    def answer(*arguments: str) -> dict:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    record = answer("compress", "r.yaml", "--out", "out", "--quiet")
    size = (here / "out/model.terse").stat().st_size
    assert record["figures"]["file_bytes"] == size
    ledger = answer("inspect", "out/model.terse")
    assert ledger["total"] == size
    parts = ("values", "positions", "tables", "header")
    assert ledger["header_bytes"] + sum(row[part] for row in ledger["rows"] for part in parts) == size
    assert ledger["origin"]["data"] == "digits"
    scores = answer("evaluate", "out/model.terse")
    assert scores["error"] == record["figures"]["test_error_file"]
    assert scores["same_data_as_trained_on"] is True
    planned = answer("plan", "r.yaml")
    assert planned["parameters"] == record["figures"]["parameters"]
    assert planned["stages"][0] == ["prune.magnitude", ["fc1.weight", "fc2.weight", "fc3.weight"]]
    names = [method["name"] for method in answer("methods")["methods"]]
    assert {"prune.magnitude", "quantize.share"} <= set(names)
    assert answer("report", "out", "--out", "page.html")["page"] == "page.html"
    assert (here / "page.html").exists()


@pytest.mark.parametrize("command", [["plan", "r.yaml"], ["methods"], ["methods", "prune.magnitude"]])
def test_text_for_people(here: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "prune.magnitude" in out
    assert max(map(len, out.splitlines())) <= 120


def test_the_gate_has_a_code_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "r.yaml", "--out", "out", "--quiet", "--json", "--set", "gate.max_bytes=10"]) == 3
    out, err = capsys.readouterr()
    assert "gate not passed" in err
    assert json.loads(out)["paths"]["gate"]
    assert (here / "out/report.html").exists()


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch numpy lightning_fabric datasets plotly numba sklearn"
    code = (
        "import sys\nfrom tersenet.cli import main\nassert main(['--help']) == 0\n"
        f"found = [name for name in '{heavy}'.split() if name in sys.modules]\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compress" in done.stdout
