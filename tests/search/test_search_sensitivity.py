"""The scan against loops of our own, a kill at any moment, and mistakes told in one sentence."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tersenet.cli import main
from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.sensitivity import LayerCurve
from tersenet.core.stage import parse_stage
from tersenet.data import as_splits, load_data
from tersenet.flow.context import Context
from tersenet.flow.prepare import prepare, register_methods
from tersenet.flow.run import run
from tersenet.forms import form_of, match
from tersenet.search import scan
from tersenet.search.trial import kept, pruned

RECIPE = {
    "model": {"name": "lenet_300_100", "kwargs": {"inputs": 64, "hidden": [16, 12]}},
    "data": {"path": "digits", "validation": 0.2},
    "train": {"epochs": 6, "lr": 0.01},
}
RATIOS = (0.0, 0.3, 0.6, 0.9)
LAYERS = {"fc1": (16, 64), "fc2": (12, 16), "fc3": (10, 12)}


@pytest.fixture(scope="module")
def recipe():
    register_methods()
    return Recipe.parse(RECIPE)


@pytest.fixture(scope="module", params=["element", "filter"])
def scanned(request, recipe, tmp_path_factory):
    model, splits = prepare(recipe)
    folder = tmp_path_factory.mktemp("scan")
    return model, request.param, scan(recipe, model, splits, folder, ratios=RATIOS, granularity=request.param)


def by_hand(state, layer, ratio, granularity):
    """Validation error of the trained net in NumPy, with one layer pruned by sorting."""
    tensors = {name: tensor.detach().double().numpy().copy() for name, tensor in state.items()}
    weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    if granularity == "element":
        smallest = np.argsort(np.abs(weight), axis=None)[: round(ratio * weight.size)]
        weight.reshape(-1)[smallest] = 0
    else:
        smallest = np.argsort(np.abs(weight).sum(1))[: round(ratio * len(weight))]
        weight[smallest] = 0
        bias[smallest] = 0
    wrong = seen = 0
    for batch in load_data(Recipe.parse(RECIPE).data).validation.batches(1000):
        x = batch.inputs[0].double().numpy().reshape(len(batch.target), -1)
        for name in LAYERS:
            x = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
            x = np.maximum(x, 0) if name != "fc3" else x
        wrong += int((x.argmax(1) != batch.target.numpy()).sum())
        seen += len(x)
    return wrong / seen, int((weight == 0).sum())


def test_every_cell_is_that_of_a_loop_by_hand(scanned):
    model, granularity, found = scanned
    assert [(curve.layer, curve.shape) for curve in found.layers] == list(LAYERS.items())
    for curve in found.layers:
        assert [cell.ratio for cell in curve.cells] == list(RATIOS)
        for cell in curve.cells:
            error, zeros = by_hand(model.state_dict(), curve.layer, cell.ratio, granularity)
            assert cell.error == pytest.approx(error, abs=1e-12) and cell.zeros == zeros
    worst = max(cell.error for curve in found.layers for cell in curve.cells)
    assert found.dense_error < 0.2 < worst, "there must be something to see"


def test_the_threshold_picks_the_largest_ratio_below_it(scanned):
    _, _, found = scanned
    for threshold in (0.0, 0.02, 0.1, 1.0):
        ratios = found.ratios_within(threshold)
        for curve in found.layers:
            fitting = [c.ratio for c in curve.cells if 1 - c.error >= 1 - found.dense_error - threshold - 1e-12]
            assert ratios.get(curve.layer, 0.0) == max(fitting)
    assert found.ratios_within(1.0) == dict.fromkeys(LAYERS, 0.9)


LAYER_KINDS = {
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "linear": lambda: nn.Linear(7, 5),
    "embedding": lambda: nn.Embedding(7, 5),
}


@pytest.mark.parametrize("make", LAYER_KINDS.values(), ids=LAYER_KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.17, 0.5, 0.97])
def test_element_by_element_it_prunes_what_the_stage_prunes(make, ratio, toy_context):
    torch.manual_seed(0)
    layer = make()
    mask = kept(match(layer)[0], ratio, "element")
    if ratio:
        parse_stage({"method": "prune.magnitude", "sparsity": ratio}).apply(layer, toy_context((), torch.zeros(1)))
        assert torch.equal(mask, form_of(match(layer)[0]).mask)
    else:
        assert bool(mask.all())


@pytest.mark.parametrize("make", LAYER_KINDS.values(), ids=LAYER_KINDS)
@pytest.mark.parametrize("granularity", ["element", "filter"])
def test_within_a_trial_filters_are_silent_and_after_it_nothing_is_changed(make, granularity):
    torch.manual_seed(0)
    layer = make()
    x = (
        torch.arange(7)
        if isinstance(layer, nn.Embedding)
        else torch.randn(7, *((4, 5, 5) if "C" in repr(layer) else (7,)))
    )
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), pruned(match(layer)[0], 0.5, granularity) as zeros:
        assert zeros == int((layer.weight == 0).sum()) == round(0.5 * layer.weight.numel()) or granularity == "filter"
        if granularity == "filter":
            out = layer(x)
            alive = out.abs().flatten(2).sum(dim=(0, 2)) if out.ndim > 2 else out.abs().sum(0)
            assert int((alive == 0).sum()) == round(0.5 * len(alive))
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in before.items())


def test_the_training_of_a_run_is_used_and_left(recipe, tmp_path, monkeypatch):
    model, splits = prepare(recipe)
    run(recipe, model, splits, tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints").iterdir()}
    logs = []
    monkeypatch.setattr(Context, "_epoch", lambda self, log: logs.append(log))
    monkeypatch.setattr("tersenet.train.loop._Loop.epoch", lambda *_: pytest.fail("trained again"))
    again, splits = prepare(recipe)
    scan(recipe, again, splits, tmp_path, ratios=[0.5])
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints").iterdir()} == before
    assert (tmp_path / "model.terse").exists()
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def command(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Slowed down, so that a kill hits it between two cells."""
    code = (
        "import sys, time, tersenet.search.cells as c\nsave = c.Cells.save\n"
        "def slow(*a):\n    save(*a)\n    time.sleep(0.15)\nc.Cells.save = slow\n"
        "from tersenet.cli import main\nsys.exit(main())"
    )
    arguments = ["sensitivity", "r.yaml", "--out", "out", "--ratios", "0,0.3,0.6,0.9", "--quiet", "--json", *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_and_resumed_it_measures_only_what_is_missing(tmp_path, capsys, recipe):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    cells, deadline = tmp_path / "out/sensitivity", time.monotonic() + 60
    process = command(tmp_path)
    while process.poll() is None and len(list(cells.glob("*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the kill must hit a scan that is under way"
    kept_files = {file: file.stat().st_mtime_ns for file in cells.glob("*.json")}
    assert 5 <= len(kept_files) < 12 and not (tmp_path / "out/sensitivity.json").exists()
    broken = next(iter(kept_files))
    broken.write_text("{")
    resumed = command(tmp_path, "--resume")
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert all(file.stat().st_mtime_ns == then for file, then in kept_files.items() if file != broken)
    model, splits = prepare(recipe)
    whole = scan(recipe, model, splits, tmp_path / "whole", ratios=RATIOS)
    assert [curve.model_dump(mode="json") for curve in whole.layers] == json.loads(out)["layers"]
    again = ["sensitivity", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out"), "--ratios", "0.5", "--quiet"]
    assert main(again) == 0
    assert len(list(cells.glob("*.json"))) == 3, "without --resume, all is measured anew"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def test_what_the_command_prints_can_be_pasted(here, capsys):
    options = ["--out", "out", "--ratios", "0,0.3,0.98", "--threshold", "0.05", "--quiet"]
    assert main(["sensitivity", "r.yaml", *options]) == 0
    out = capsys.readouterr().out
    block = out[out.index("sparsity: {") :].split("\n\n")[0]
    stage = parse_stage({"method": "prune.magnitude", **yaml.safe_load(block)})
    found = json.loads((here / "out/sensitivity.json").read_text())
    assert stage.sparsity and set(stage.sparsity) <= set(LAYERS)
    for curve in found["layers"]:
        assert curve["layer"] in out and f"{100 * curve['cells'][1]['error']:.2f}" in out
    assert max(map(len, out.splitlines())) <= 120
    rows = list(csv.DictReader((here / "out/sensitivity.csv").open()))
    assert len(rows) == 9 and {row["layer"] for row in rows} == set(LAYERS)
    assert [float(row["error"]) for row in rows[:3]] == [cell["error"] for cell in found["layers"][0]["cells"]]
    page = (here / "out/sensitivity.html").read_text()
    assert page.count("<svg") >= 4 and "<script" not in page and block.strip() in page.replace("&#39;", "'")
    assert "report.html" not in {file.name for file in (here / "out").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ratios", "0,1.0"], ["--ratios 0,1.0", "from 0 to less than 1"]),
        (["--ratios", "-0.1"], ["--ratios", "from 0 to less than 1"]),
        (["--ratios", "half"], ["--ratios half", "as 0,0.25,0.5"]),
        (["--ratios", "nan"], ["--ratios nan"]),
        (["--ratios", ""], ["--ratios"]),
        (["--threshold", "2"], ["--threshold 2", "from 0 to 1"]),
        (["--targets", "fc9"], ["'fc9' matches no weight"]),
        (["--targets", "fc1.bias"], ["fc1.bias has one dimension"]),
        (["--set", "train=null"], ["no 'train'", "lenet_300_100", "'weights'"]),
        (["--set", "train.epochs=0"], ["no 'train'"]),
        (["--set", "model=null"], ["'model' is missing"]),
        (["--set", "data=null"], ["'data' is missing"]),
        (["--set", "model.kwargs.classes=7"], ["7"]),
        (["--out", "mine"], ["'sensitivity.csv' in it was not written by a run"]),
    ],
)
def test_mistakes(here, capsys, arguments, words):
    (here / "mine").mkdir()
    (here / "mine/sensitivity.csv").write_text("mine")
    assert main(["sensitivity", "r.yaml", *arguments]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err and out == ""
    for word in words:
        assert word in lines[0]
    assert not (here / "runs").exists() and (here / "mine/sensitivity.csv").read_text() == "mine"


def test_a_model_that_is_compressed_already_and_a_task_without_classes_are_told(recipe, tmp_path, toy_context):
    model, splits = prepare(recipe)
    with pytest.raises(RecipeError, match="unknown granularity 'filters'; did you mean 'filter'"):
        scan(recipe, model, splits, tmp_path, ratios=[0.5], granularity="filters")
    with pytest.raises(RecipeError, match="there are none"):
        scan(recipe, model, splits, tmp_path, ratios=[])
    with pytest.raises(RecipeError, match="ratios: 1 is no share"):
        scan(recipe, model, splits, tmp_path, ratios=[0.5, 1.0])
    parse_stage({"method": "prune.magnitude", "sparsity": 0.5}).apply(model, toy_context((), torch.zeros(1)))
    with pytest.raises(ModelError, match=r"fc1.weight is already compressed \(masked\)"):
        scan(recipe, model, splits, tmp_path, ratios=[0.5])
    numbers = as_splits((torch.randn(40, 3), torch.randn(40, 1)))
    mse = Recipe.parse({"train": {"epochs": 1, "objective": "mse"}})
    with pytest.raises(DataError, match="has no classes"):
        scan(mse, nn.Sequential(nn.Linear(3, 1)), numbers, tmp_path, ratios=[0.5])


def test_an_error_that_lies_on_the_threshold_is_allowed():
    """0.1 + 0.2 is more than 0.3 in floats, or less; neither may matter."""
    cells = tuple({"ratio": r, "zeros": 0, "error": e, "loss": 0.0} for r, e in ((0.0, 0.1), (0.5, 0.3), (0.9, 0.31)))
    curve = LayerCurve(layer="fc", name="fc.weight", shape=(2, 2), parameters=4, cells=cells)
    assert curve.within(0.1 + 0.2) == curve.within(0.3) == curve.within(0.3 - 1e-15) == 0.5
    assert curve.within(0.29) == 0.0


def test_measurements_of_another_model_are_not_taken_for_this_one(recipe, tmp_path):
    for seed in (0, 1):
        other = recipe.model_copy(update={"seed": seed})
        model, splits = prepare(other)
        found = scan(other, model, splits, tmp_path, ratios=[0.5, 0.9], resume=True)
        for curve in found.layers:
            assert curve.cells[1].error == pytest.approx(by_hand(model.state_dict(), curve.layer, 0.9, "element")[0])
