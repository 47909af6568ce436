"""prune.depth: which blocks go, against scores and losses computed by hand; the file gives the smaller model back."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import tersenet
import tersenet.prune
from tersenet import artifact
from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.load import load, restore
from tersenet.flow.pack import contents_of, save
from tersenet.forms import Masked, attach, check_order, match
from tersenet.graph import ChannelGraph, remove
from tersenet.graph.edits import Skip, noted
from tersenet.models import MODELS


def prune(model: nn.Module, context: Any, **options: Any) -> list[str]:
    """Names of the blocks that went."""
    parse_stage({"method": "prune.depth", **options}).apply(model, context)
    return [name for name, module in model.named_modules() if isinstance(module, Skip)]


class Block(nn.Module):
    """Pre-norm, two branches, layer scale on the second."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mix, self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.scale = nn.Parameter(torch.rand(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm1(x))
        return x + self.scale * self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


def net() -> Net:
    """Blocks whose weights are 3, 1, 5, 2 and 4 times as large as those of a fresh one."""
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for block, factor in zip(model.blocks, (3, 1, 5, 2, 4), strict=True):
            for weight in (block.mix.weight, block.up.weight, block.down.weight):
                weight.mul_(factor)
    return model


@pytest.fixture
def context(toy_context: Any) -> Any:
    torch.manual_seed(1)
    return toy_context((torch.randn(40, 6),), torch.randn(40, 3))


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"ratio": 0.2}, [1]),
        ({"ratio": 0.6}, [0, 1, 3]),
        ({"keep": 1}, [0, 1, 3, 4]),
        ({"keep": 0}, [0, 1, 2, 3, 4]),
        ({"ratio": 1}, [0, 1, 2, 3, 4]),
        ({"ratio": 0.4, "criterion": "smallest_kept"}, [2, 4]),
        ({"keep": 2, "ignore": ["blocks.1.*"]}, [0, 3]),
        ({"ratio": 1, "targets": ["blocks.2.*", "blocks.4.mix"]}, [2, 4]),
    ],
    ids=str,
)
def test_the_blocks_with_the_smallest_weights_go(context: Any, options: dict[str, Any], gone: list[int]) -> None:
    model = net()
    assert prune(model, context, **options) == [f"blocks.{i}" for i in gone]
    listed = ", ".join(f"blocks.{i}" for i in sorted(gone, key=[3, 1, 5, 2, 4].__getitem__))
    if "criterion" not in options and "targets" not in options:
        assert context.notes[-1].endswith(f"blocks removed: {listed}")


def test_taylor_is_the_mean_of_gradient_times_weight(context: Any) -> None:
    model = net().eval()
    with torch.no_grad():
        model.blocks[1].scale.mul_(30)
    context.loss(model).backward()
    scores = []
    for block in model.blocks:
        entries = [(w * w.grad).abs().flatten() for w in (block.mix.weight, block.up.weight, block.down.weight)]
        scores.append(float(torch.cat(entries).detach().mean()))
    model.zero_grad()
    expected = sorted(sorted(range(5), key=scores.__getitem__)[:2])
    assert expected != [1, 3]  # which magnitude would choose
    assert prune(model, context, ratio=0.4, criterion="taylor") == [f"blocks.{i}" for i in expected]


def test_blocks_of_different_sizes_are_compared_by_the_mean_of_their_matrices(toy_context: Any) -> None:
    """The larger blocks have the larger sums, and a large γ is none of the weights."""
    model = convolutional()
    with torch.no_grad():
        for factor, block in zip((4, 1, 1, 2, 0.5, 3), [*model.stages[0], *model.stages[1]], strict=True):
            for layer in (block.dw, block.up, block.down):
                layer.weight.copy_(torch.full_like(layer.weight, factor))
            block.norm.weight.fill_(100 * (factor == 2) + 1)
    context = toy_context((torch.randn(8, 1, 8, 8),), torch.zeros(8, 10))
    assert prune(model, context, keep=2) == ["stages.0.1", "stages.0.2", "stages.1.0", "stages.1.1"]


def test_loss_is_the_mean_over_the_validation_examples(context: Any) -> None:
    asked = []

    class Watched(type(context)):  # type: ignore[misc]
        def batches(self, split: str = "train", *others: Any) -> Any:
            asked.append(split)
            return super().batches(split, *others)

    watched = Watched(context.inputs, context.target)
    stage: Any = parse_stage({"method": "prune.depth", "keep": 1, "selection": "loss", "scoring": {"batch_size": 24}})
    model = net().eval()
    assert stage._loss(model, watched) == pytest.approx(context.evaluate(model)["loss"])
    assert asked == ["validation"]


def test_loss_is_greedy(context: Any) -> None:
    """Each round by hand, on the whole batch: the block goes without which the loss is lowest then."""
    model = net().eval()
    gone: list[int] = []
    for _ in range(3):
        losses = {}
        for i in (i for i in range(5) if i not in gone):
            short = copy.deepcopy(model)
            for j in (*gone, i):
                short.blocks[j] = nn.Identity()
            losses[i] = context.evaluate(short)["loss"]
        gone.append(min(losses, key=losses.__getitem__))
    model.train()
    assert prune(model, context, keep=2, selection="loss") == [f"blocks.{i}" for i in sorted(gone)]
    assert all(module.training for module in model.modules())
    assert [i for i, block in enumerate(model.blocks) if isinstance(block, Skip)] == sorted(gone)


def test_blocks_that_are_zero_go_first_or_alone(context: Any) -> None:
    def zero() -> Net:
        model = net()
        with torch.no_grad():  # the largest one, and half of another
            for end in (model.blocks[2].mix.weight, model.blocks[2].mix.bias, model.blocks[2].scale):
                end.zero_()
            model.blocks[4].mix.weight.zero_()
        return model

    x = context.inputs[0]
    model = zero()
    before = model.eval()(x)
    assert prune(model, context, zero_only=True) == ["blocks.2"]
    torch.testing.assert_close(model(x), before)
    assert prune(zero(), context, ratio=0.4) == ["blocks.1", "blocks.2"]
    assert prune(net(), context, zero_only=True) == []
    assert context.notes[-1] == "0 of 5 blocks removed"


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.end = nn.Linear(6, 9), nn.Linear(9, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.end(torch.tanh(self.up(x)))


def test_what_group_lasso_over_depth_makes_zero_goes(context: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Plain(), Plain(), Plain(), nn.Linear(6, 3))
    training = {"steps": 3, "lr": 0.1, "optimizer": "sgd", "momentum": 0}
    lasso = {"method": "prune.regularize", "penalty": {"depth": {"1.end": 1e3}}, "training": training, "mask": False}
    stages = [parse_stage(stage) for stage in (lasso, {"method": "prune.depth", "zero_only": True})]
    check_order(stages, model)
    for stage in stages:
        stage.apply(model, context)
    assert [isinstance(block, Skip) for block in model] == [False, True, False, False]


def test_fine_tuning_trains_the_smaller_model(context: Any) -> None:
    model = net()
    prune(model, context, ratio=0.4, finetune={"steps": 3, "lr": 0.01, "optimizer": "sgd"})
    assert len(context.trained) == 1 and len(list(model.blocks[0].parameters())) == 11


def test_blocks_with_forms_are_left_and_told(context: Any) -> None:
    model = net()
    for target in match(model, ["blocks.1.*"]):
        attach(target, Masked(torch.ones(target.shape, dtype=torch.bool)))
    assert prune(model, context, ratio=0.5) == ["blocks.0", "blocks.3"]
    note = "'blocks.1' is left as it is: 'blocks.1.mix.parametrizations.weight.original' has a form"
    assert context.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs one of 'ratio'"),
        ({"ratio": 0.5, "keep": 1}, "needs one of 'ratio'"),
        ({"ratio": 1.5}, "less than or equal to 1"),
        ({"keep": -1}, "greater than or equal to 0"),
        ({"ratio": 0.5, "criterion": "taylr"}, "unknown criterion 'taylr'; did you mean 'taylor'"),
        ({"ratio": 0.5, "selection": "loss", "criterion": "taylor"}, "looks at no weights; leave out 'criterion'"),
        ({"zero_only": True, "criterion": "taylor"}, "compares no blocks; leave out 'criterion'"),
        ({"ratio": 0.5, "scoring": {"batches": 3}}, "scoring.batches does not belong to criterion 'magnitude'"),
        ({"ratio": 0.5, "selection": "loss", "scoring": {"split": "train"}}, "does not belong to selection 'loss'"),
        ({"keep": 5}, "5 blocks are to stay, and there are 5 that can go"),
    ],
    ids=str,
)
def test_mistakes_are_told(context: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        prune(net(), context, **options)


def test_models_without_blocks_and_runs_without_data_are_told(context: Any, toy_context: Any) -> None:
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ModelError, match=r"no block of the model can go \(none adds branches to its input\)"):
        prune(plain, context, ratio=0.5)
    with pytest.raises(ModelError, match="no block of the model can go"):
        prune(net(), context, ratio=0.5, targets=["head"])
    assert prune(plain, context, zero_only=True) == []
    with pytest.raises(DataError, match="there is none"):
        prune(net(), toy_context((torch.zeros(0, 6),), torch.zeros(0, 3)), ratio=0.5)
    prune(net(), context, ratio=0.05)
    assert context.notes[-2] == "a ratio of 0.05 of 5 blocks is none"


def test_a_block_whose_branch_is_no_number_is_left_and_told(context: Any) -> None:
    """Nothing makes it zero, since 0 · NaN is NaN."""
    model = net()
    model.blocks[1].up.weight.data[0, 0] = torch.nan
    assert prune(model, context, ratio=0.5) == ["blocks.0", "blocks.3"]
    assert "'blocks.1' is left as it is: without it the model's output would differ" in context.notes[0]


@pytest.mark.parametrize("order", ["channels first", "blocks first"])
def test_channels_and_blocks_go_together_into_one_file(context: Any, tmp_path: Path, order: str) -> None:
    model, x = net(), context.inputs[0]
    for step in sorted(["blocks", "channels"], reverse=order == "blocks first", key="blocks".__eq__):
        if step == "blocks":
            prune(model, context, ratio=0.4)
        else:
            graph = ChannelGraph(model, x)
            remove(model, graph, {group.name: [0, 2] for group in graph if group.prunable})
    assert all(len(block.up.weight) == 14 for block in model.blocks if isinstance(block, Block))
    save(model, tmp_path / "net.terse", small_tensors="float32", example=x)
    for back in (load(tmp_path / "net.terse", model=net()), load(tmp_path / "net.terse")):
        torch.testing.assert_close(back(x), model.eval()(x))
    assert {path for path, edit in noted(model).items() if edit == 0} == {"blocks.1", "blocks.3"}


class Convolutional(nn.Module):
    """Depthwise blocks with layer scale and a downsampling between them, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 8, 2, 2), nn.Conv2d(8, 12, 2, 2)
        self.stages = nn.ModuleList(nn.Sequential(Depthwise(n), Depthwise(n), Depthwise(n)) for n in (8, 12))
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages[1](self.down(self.stages[0](self.stem(x))))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(torch.nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def digits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    places = pairwise((0, 1200, 1500, 1797))
    return {name: (x[a:b], y[a:b]) for name, (a, b) in zip(("train", "validation", "test"), places, strict=True)}


def convolutional() -> Convolutional:
    torch.manual_seed(0)
    return Convolutional()


def test_a_whole_run_on_a_model_of_the_users_own(tmp_path: Path) -> None:
    """Trained, three of six blocks out by their loss, half the weights zero: it loads with and without source."""
    training = {"epochs": 4, "batch_size": 64, "lr": 0.005}
    stages = [
        {"method": "prune.depth", "keep": 3, "selection": "loss", "finetune": {**training, "epochs": 2}},
        {"method": "prune.magnitude", "sparsity": 0.5, "finetune": {**training, "epochs": 2}},
    ]
    data = digits()
    outcome = tersenet.compress(convolutional(), {"train": training, "stages": stages}, data, out=tmp_path)
    x, y = data["test"]
    own, stored = tersenet.load(outcome.file, model=convolutional()), tersenet.load(outcome.file)
    assert torch.equal(own(x), outcome.model(x))
    torch.testing.assert_close(stored(x), own(x), atol=1e-5, rtol=1e-4)
    gone = [name for name, module in own.named_modules() if isinstance(module, Skip)]
    assert len(gone) == 3 and any("3 of 6 blocks removed" in note for note in outcome.record.notes)
    names = set(artifact.read(outcome.file).tensors)
    assert names == set(own.state_dict()) and not any(n.startswith(tuple(f"{g}." for g in gone)) for n in names)
    assert float((own(x).argmax(1) == y).float().mean()) > 0.6
    with pytest.raises(ModelError, match="which this model does not have: it is another"):
        tersenet.load(outcome.file, model=nn.Sequential(nn.Linear(2, 2)))


def test_a_model_of_the_zoo_comes_back_from_its_specification(toy_context: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["resnet20"]()
    x = torch.randn(4, 3, 32, 32)
    gone = prune(model, toy_context((x,), torch.zeros(4, 10)), ratio=0.5)
    assert len(gone) == 4
    contents = contents_of(model, Recipe.parse({"model": "resnet20", "code": {"small_tensors": "float32"}}), None)
    assert contents.edits == dict.fromkeys(gone, 0) and not contents.graph
    data, _ = artifact.to_bytes(contents)
    back = restore(artifact.read_bytes(data), "file")
    assert torch.equal(back(x), model.eval()(x))
    again, _ = artifact.to_bytes(contents_of(back, Recipe.parse({"model": "resnet20"}), None))
    assert artifact.read_bytes(again).edits == contents.edits
