"""The table of deployed networks, the images that MobileNet is given, and what the benchmark makes of its figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from tersenet.core.load import load_recipe
from tersenet.core.recipe import DataSpec, Recipe
from tersenet.data import load_data
from tersenet.experiments import TABLES
from tersenet.experiments.deploy import FAST, FASTEST, LEAN, THIN
from tersenet.experiments.enlarged import enlarged
from tersenet.flow.prepare import prepare_model, register_methods

HERE = Path(__file__).parents[2]


def recipes() -> dict[str, Recipe]:
    register_methods()
    return {row.name: load_recipe(HERE / "recipes" / row.recipe, row.overrides) for row in TABLES["deploy"].rows}


def test_rows_share_the_dense_training_and_the_control_is_trained_no_less() -> None:
    found = recipes()
    beginnings = {
        json.dumps([r.to_dict()[part] for part in ("model", "data", "train", "runtime")]) for r in found.values()
    }
    assert len(beginnings) == 1
    after = {name: recipe.stages[0].to_dict() for name, recipe in found.items()}
    more, less = after["longer"]["training"], after["half"]["finetune"]
    assert {**more, "epochs": None} == {**less, "epochs": None} and less == after["lean_int8"]["finetune"]
    assert more["epochs"] >= less["epochs"] / 4, "multiplications: half the channels leave a quarter of them"
    assert after["half"] == after["half_int8"] == after["half_int8_learned"], "the channels are taken out once"


def macs(widths: list[int]) -> int:
    """Of the convolutions, from pictures of 32×32."""
    sides = [32] * 2 + [16] * 2 + [8] * 3 + [4] * 3 + [2] * 3
    return sum(9 * a * b * side**2 for a, b, side in zip([3, *widths], widths, sides))  # noqa: B905


def share_kept(recipe: Recipe, stage: int, kept: dict[int, int]) -> float:
    """Of the multiplications, by a stage that keeps these channels and at most half of each layer."""
    model = prepare_model(recipe)
    recipe.stages[stage].check(model)
    dense = {
        place: layer.out_channels for place, layer in enumerate(model.features) if isinstance(layer, torch.nn.Conv2d)
    }
    assert kept.keys() == dense.keys() and all(kept[place] <= width / 2 for place, width in dense.items())
    assert recipe.stages[stage].to_dict()["keep"] == {f"features.{place}": width for place, width in kept.items()}
    assert macs(list(dense.values())) == 313_196_544  # with the linear layer's 5,120 Pruning Filters' 3.13e8
    return macs(list(kept.values())) / macs(list(dense.values()))


@pytest.mark.parametrize(
    ("row", "kept", "share"),
    [("lean_int8", LEAN, 1 / 5), ("fast_int8", FAST, 1 / 7), ("fastest_int8", FASTEST, 1 / 13)],
)
def test_thinner_nets_are_trained_no_more_than_the_control(row: str, kept: dict[int, int], share: float) -> None:
    recipe = recipes()[row]
    left = share_kept(recipe, 0, kept)
    assert left == pytest.approx(share, rel=0.06)
    assert recipe.stages[0].to_dict()["finetune"]["epochs"] * left < recipes()["longer"].stages[0].training.epochs


@pytest.mark.parametrize(("row", "kept", "share"), [("fastest_taught", FASTEST, 1 / 13), ("thin_taught", THIN, 1 / 14)])
def test_nets_with_a_teacher_begin_as_it_and_are_trained_no_more_than_their_control(
    row: str, kept: dict[int, int], share: float
) -> None:
    found = recipes()
    first, second, last = found[row].stages
    assert first == found["half"].stages[0] and last == found["half_int8"].stages[1], "the teacher is trained once"
    left = share_kept(found[row], 1, kept)
    assert left == pytest.approx(share, rel=0.06)
    assert second.finetune.teacher.model == "stage"
    passes = left + 0.25 / 3  # of the teacher, with a quarter of the multiplications, forwards only
    cost = first.finetune.epochs / 4 + second.finetune.epochs * passes
    assert cost < found["longest"].stages[0].training.epochs


def test_enlarged_images_are_those_of_pillow() -> None:
    found, small = enlarged("digits", 32, validation=30, test=50), load_data(DataSpec(path="digits", validation=30))
    assert found.test is not None and small.test is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (len(small.train), 30, 50)
    (large,) = list(found.test.batches(50))
    (first,) = next(iter(small.test.batches(50))).inputs
    assert large.inputs[0].shape == (50, 1, 32, 32)
    for place in (0, 49):
        expected = Image.fromarray(first[place, 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(large.inputs[0][place, 0], np.asarray(expected), atol=1e-5)


def test_enlarged_images_move_in_training_as_the_seed_says() -> None:
    train = enlarged("digits", 16).train
    one, same, other = (next(iter(train.batches(8, seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(one.inputs[0], same.inputs[0]) and torch.equal(one.target, same.target)
    assert not torch.equal(one.inputs[0], other.inputs[0])


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """`benchmarks/deploy_page.py`, which writes into a page of its own."""
    spec = importlib.util.spec_from_file_location("deploy_page", HERE / "benchmarks/deploy_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "deploy_page", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "DEPLOY.md")
    module.PAGE.write_text(f"above\n\n{module.BEGIN}\nold\n{module.END}\n\nbelow\n")
    return module


def figures(page: ModuleType, loss: float) -> object:
    """Times measured on a processor with AMX."""
    names = [f"{kind}, {runtime}" for kind in ("dense", "compressed") for runtime in (*page.EXPORTED, page.TORCH)]
    times = {1: (2.96, 3.15, 7.74, 0.82, 0.31, 9.9), 64: (151, 149, 180, 33, 3.9, 400)}
    cases = [page.Case(batch, 1, dict(zip(names, row, strict=True))) for batch, row in times.items()]
    scores = [page.Scores(runtime, 10_000, 0.09, 0.09 + loss, 0.97) for runtime in (*page.EXPORTED, page.TORCH)]
    sizes = {"dense": 50, "compressed": 5, "dense.onnx": 100, "compressed.onnx": 28}
    sizes |= {"dense.xml, .bin": 100, "compressed.xml, .bin": 7}
    return page.Figures("vgg16_bn", "a machine", 0.0, True, sizes, cases, scores)


@pytest.mark.parametrize(("loss", "kept"), [(0.005, True), (0.0051, False)])
def test_what_was_to_be_reached_is_met_or_missed(page: ModuleType, loss: float, kept: bool) -> None:
    found = [(check.found, check.met) for check in page.checks(figures(page, loss))]
    speed = [("9.5×", True), ("38.7×", True), ("25.0×", True), ("46.2×", True)]
    assert found[:4] == speed, "2.96 / 0.31, 151 / 3.9, 7.74 / 0.31, 180 / 3.9"
    assert [met for _, met in found[4:6]] == [kept, kept]
    assert found[6] == ("28.0%", False)


def test_the_page_keeps_what_people_wrote(page: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results" / "deploy.json"
    page.write(results, figures(page, 0.001))
    once = page.PAGE.read_text()
    assert once.startswith("above\n") and once.endswith("\n\nbelow\n") and "old" not in once
    assert "| 64 | 1 | PyTorch eager | 180.00 | 400.00 | 0.45×, slower |" in once
    page.write(results, figures(page, 0.001))
    assert page.PAGE.read_text() == once
