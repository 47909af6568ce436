"""factorize.low_rank on whole models: what becomes factors, what is left and why, and the file that gives it back."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tersenet import artifact
from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import ModelSpec, Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.load import load, restore
from tersenet.flow.pack import contents_of, save
from tersenet.flow.plan import plan
from tersenet.flow.prepare import prepare, register_methods
from tersenet.flow.run import run
from tersenet.forms import Masked, attach, check_order, match, weight_of
from tersenet.graph import ChannelGraph
from tersenet.models import build

register_methods()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2)
        self.norm, self.fc, self.head = nn.BatchNorm2d(12), nn.Linear(108, 20), nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return self.head(torch.relu(self.fc(x.flatten(1))))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(30, 8, padding_idx=2), nn.Linear(8, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(tokens).mean(1))


@pytest.fixture
def context(toy_context: Any) -> Any:
    torch.manual_seed(0)
    return toy_context((torch.randn(60, 3, 8, 8),), torch.randn(60, 4))


def net(kind: type[nn.Module] = Net, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return kind().eval()


def factorise(model: nn.Module, context: Any, **options: Any) -> list[str]:
    """Notes of the stage."""
    stage = parse_stage({"method": "factorize.low_rank", **options})
    check_order([stage], model)
    stage.apply(model, context)
    return context.notes  # type: ignore[no-any-return]


def chains(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Sequential)]


KINDS = [
    {"rank": 3},
    {"decomposition": "channel", "parameters": 0.6},
    {"decomposition": "spatial", "rank": {"conv2": 4}},
    {"decomposition": "cp", "rank": {"conv*": 5}},
    {"decomposition": "tucker", "rank": {"conv2": [4, 6], "conv1": [4, 2]}},
    {"decomposition": "tucker", "energy": 0.5},
    {"objective": "outputs", "error": 0.4, "batches": 1},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_file_gives_factors_back_and_so_do_its_operators(
    context: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    model = net()
    factorise(model, context, finetune={"steps": 2, "lr": 0.01}, **options)
    model.eval()
    assert chains(model)
    save(model, tmp_path / "a.terse", small_tensors="float32")
    back = load(tmp_path / "a.terse", net(seed=2))
    assert [str(module) for module in back.modules()] == [str(module) for module in model.modules()]
    with torch.no_grad():
        torch.testing.assert_close(back(*context.inputs), model(*context.inputs))
    save(model, tmp_path / "b.terse", example=context.inputs[0][:2], small_tensors="float32")
    alone = load(tmp_path / "b.terse")
    torch.testing.assert_close(alone(*context.inputs), model(*context.inputs))


def test_a_model_of_the_zoo_needs_no_code_of_the_user(toy_context: Any, tmp_path: Path) -> None:
    """Attention projections of a vision transformer, after some of its channels have gone."""
    spec = {"name": "vit_cifar", "kwargs": {"image": 8, "dim": 24, "depth": 2, "heads": 2}}
    model = build(ModelSpec.parse(spec), 0)
    context = toy_context((torch.randn(4, 3, 8, 8),), torch.randn(4, 10))
    parse_stage({"method": "prune.channels", "ratio": 0.5, "targets": ["*.mlp.fc1"]}).apply(model, context)
    factorise(model, context, parameters=0.5, targets=["*attn*", "*mlp*"])
    assert chains(model)[1:] == [
        f"blocks.{b}.{n}" for b in (0, 1) for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert model.blocks[0].mlp.fc1[1].out_features == 48  # type: ignore[index, union-attr, union-attr]
    contents = contents_of(model, Recipe.parse({"model": spec, "code": {"small_tensors": "float32"}}), None)
    artifact.write(tmp_path / "model.terse", contents, "auto")
    back = load(tmp_path / "model.terse")
    with torch.no_grad():
        torch.testing.assert_close(back(*context.inputs), model.eval()(*context.inputs))


def test_an_embedding_becomes_a_look_up_and_a_linear_layer(toy_context: Any, tmp_path: Path) -> None:
    context = toy_context((torch.randint(30, (9, 5)),), torch.randn(9, 4))
    model, tokens = net(Words), context.inputs[0]
    expected, exact = model(tokens).detach(), copy.deepcopy(model)
    notes = factorise(model, context, rank={"table": 3})
    assert str(model.table[0]) == "Embedding(30, 3, padding_idx=2)"
    assert str(model.table[1]) == "Linear(in_features=3, out_features=8, bias=False)"
    table = exact.table.weight.detach()
    u, s, v = torch.linalg.svd(table)
    torch.testing.assert_close(model.table(torch.arange(30)), u[:, :3] * s[:3] @ v[:3])
    assert "out.weight is left as it is: no rank is given for it" in notes
    assert not torch.equal(model(tokens), expected)
    save(model, tmp_path / "a.terse", small_tensors="float32")
    assert torch.equal(load(tmp_path / "a.terse", net(Words, 2))(tokens), model(tokens))


def test_outputs_are_kept_closer_on_data_and_the_mean_goes_into_the_bias(context: Any) -> None:
    model, x = net(), context.inputs[0]
    read: list[torch.Tensor] = []
    model.fc.register_forward_hook(lambda layer, args, y: read.append(args[0])).remove()
    features: dict[str, torch.Tensor] = {}
    handle = model.fc.register_forward_hook(lambda layer, args, y: features.update(x=args[0], y=y))
    with torch.no_grad():
        model(x)
    handle.remove()
    errors = {}
    for objective in ("weights", "outputs"):
        small = copy.deepcopy(model)
        factorise(small, context, rank={"fc": 6}, **({"objective": objective} if objective == "outputs" else {}))
        with torch.no_grad():
            off = small.fc(features["x"]) - features["y"]
        errors[objective] = float(off.square().sum())
        if objective == "outputs":
            assert float(off.mean(0).abs().max()) < 1e-5
    y = features["y"] - features["y"].mean(0)
    tail = torch.linalg.svdvals(y.double())[6:].square().sum()
    assert errors["outputs"] == pytest.approx(float(tail), rel=1e-4)  # y − ȳ has no nearer matrix of rank 6
    assert errors["weights"] > 1.5 * errors["outputs"]


def test_a_shared_bias_stays_as_it_is(context: Any) -> None:
    model = net()
    model.other = nn.Linear(3, 20)
    model.other.bias = model.fc.bias
    before = model.fc.bias.detach().clone()
    factorise(model, context, rank={"fc": 6}, objective="outputs")
    assert torch.equal(model.fc[1].bias, before)
    assert model.fc[1].bias is model.other.bias


@pytest.mark.parametrize(
    ("way", "ranks"),
    [({"keep": 0.25}, [2, 3, 5]), ({"parameters": 0.5}, [3, 5, 8]), ({"rank": 3}, [3, 3, 3])],
    ids=str,
)
def test_ranks_by_size(context: Any, way: dict[str, Any], ranks: list[int]) -> None:
    model = net()
    factorise(model, context, ignore=["head"], **way)
    assert [model.conv1[0].out_channels, model.conv2[0].out_channels, model.fc[0].out_features] == ranks


def test_ranks_by_spectrum(context: Any) -> None:
    model = net()
    spectrum = torch.linalg.svdvals(model.fc.weight.detach().double())
    share = float(spectrum[:7].square().sum() / spectrum.square().sum())
    for way in ({"energy": share - 1e-6}, {"error": (1 - share) ** 0.5 + 1e-6}):
        small = copy.deepcopy(model)
        notes = factorise(small, context, targets=["fc"], **way)
        assert small.fc[0].out_features == 7
        relative = re.search(r"fc.weight: rank 7 of 20; mean error \S+, relative (\S+);", notes[-2])
        assert relative is not None
        assert float(relative[1]) == pytest.approx((1 - share) ** 0.5, rel=0.01)


def test_ranks_by_vbmf_are_planted_ones(context: Any) -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight.copy_(torch.randn(20, 2) @ torch.randn(2, 108) + 0.05 * torch.randn(20, 108))
        model.conv2.weight.copy_(torch.randn(12, 8, 3, 3))
    notes = factorise(model, context, vbmf=True, targets=["fc", "conv2"])
    assert model.fc[0].out_features == 2
    assert "conv2.weight is left as it is: variational Bayes finds nothing but noise in its weight" in notes


def test_groups_have_one_rank_and_their_own_factors(toy_context: Any) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2, padding=1), nn.Flatten(), nn.Linear(128, 4))
    context = toy_context((torch.randn(30, 8, 4, 4),), torch.randn(30, 4))
    exact = copy.deepcopy(model)
    factorise(model, context, rank={"0": 4}, objective="outputs", batches=1)
    torch.testing.assert_close(model(*context.inputs), exact(*context.inputs), rtol=1e-4, atol=1e-5)


# ---- what is left as it is -------------------------------------------------------------------------------------------


def test_factors_that_cost_more_are_not_made_and_the_numbers_are_told(context: Any) -> None:
    model = net()
    notes = factorise(model, context, rank={"head": 4, "fc": 16})
    assert chains(model) == ["fc"]
    assert (
        "head.weight is left as it is: factors of rank 4 would have 96 parameters and 96 MACs, the layer has 80 "
        "parameters and 80 MACs" in notes
    )


def test_fewer_parameters_with_more_products_are_not_taken(toy_context: Any) -> None:
    """A k×1 with stride (s, 1) computes s times as many columns as the layer."""
    model = nn.Sequential(nn.Conv2d(16, 16, 3, stride=3), nn.Flatten(), nn.Linear(256, 4))
    context = toy_context((torch.randn(2, 16, 12, 12),), torch.randn(2, 4))
    notes = factorise(model, context, rank={"0": 20}, decomposition="spatial")
    found = re.search(
        r"would have ([\d,]+) parameters and ([\d,]+) MACs, the layer has ([\d,]+) .* ([\d,]+) MACs", notes[-2]
    )
    assert found is not None
    small, macs, dense, before = (int(each.replace(",", "")) for each in found.groups())
    assert (small, dense) == (20 * 48 * 2, 16 * 16 * 9)
    assert (macs, before) == (20 * 48 * 4 * 12 + 16 * 60 * 16, 16 * 16 * 9 * 16)
    assert not chains(model)[1:]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.fc, self.odd = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attn(x, x, x, need_weights=False)[0]
        return self.odd(self.fc(x).to(self.odd.weight.dtype)).mean(1)


def test_layers_whose_weight_is_read_by_the_model_s_own_code_stay(toy_context: Any) -> None:
    context = toy_context((torch.randn(3, 5, 8),), torch.randn(3, 4))
    model = net(Attending)
    notes = factorise(model, context, rank=2)
    assert chains(model) == ["fc"]
    told = "\n".join(notes)
    assert "attn.in_proj_weight is left as it is: a MultiheadAttention is no linear layer" in told
    assert "attn.out_proj.weight is left as it is: the model's own code does more with it than call it" in told
    assert "odd.weight is left as it is: the model's own code does more with it than call it" in told
    with pytest.raises(RecipeError, match=r"odd.weight cannot be factorised: the model's own code"):
        factorise(net(Attending), context, rank=2, targets=["odd", "fc"])
    with pytest.raises(RecipeError, match=r"attn.in_proj_weight cannot be factorised: a MultiheadAttention"):
        factorise(net(Attending), context, rank=2, targets=["attn"])


def test_tied_weights_stay_together(toy_context: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))
    model[1].weight = model[0].weight
    context = toy_context((torch.randn(3, 6),), torch.randn(3, 4))
    notes = factorise(model, context, rank=1)
    assert "0.weight is left as it is: its weight is that of '1.weight' too, and factors would not be shared" in notes
    assert chains(model) == ["", "2"]


def test_the_whole_model_cannot_be_a_layer(toy_context: Any) -> None:
    context = toy_context((torch.randn(3, 6),), torch.randn(3, 6))
    assert "it is the whole model" in factorise(nn.Linear(6, 6), context, rank=1)[0]


def test_a_layer_used_twice_is_replaced_in_both_places(toy_context: Any) -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 4))
    context = toy_context((torch.randn(3, 6),), torch.randn(3, 4))
    factorise(model, context, rank=2, targets=["0"])
    assert model[0] is model[2]
    assert isinstance(model[0], nn.Sequential)


def test_pruned_weights_are_taken_as_they_compute(context: Any) -> None:
    """A mask on the weight, and the plain weight with zeros that a file gives back."""
    masked, plain = net(), net()
    mask = torch.rand(plain.fc.weight.shape) < 0.5
    with torch.no_grad():
        plain.fc.weight.mul_(mask)
    attach(match(masked, ["fc"])[0], Masked(mask))
    stage = parse_stage({"method": "factorize.low_rank", "rank": {"fc": 4}})
    results = [stage.apply(model, context).fc[1].weight for model in (masked, plain)]  # type: ignore[union-attr]
    assert torch.equal(results[0], results[1])  # type: ignore[call-overload]
    assert [note for note in context.notes if "was zero, its factors are dense" in note]


def test_what_was_done_before_that_would_be_lost_is_kept(context: Any) -> None:
    model = net()
    parse_stage({"method": "quantize.activations", "targets": ["fc"]}).apply(model, context)
    parse_stage({"method": "quantize.uniform", "targets": ["conv2"], "bits": 4}).apply(model, context)
    stage = parse_stage({"method": "factorize.low_rank", "rank": 3})
    stage.apply(model, context)
    assert chains(model) == ["conv1", "head"]
    told = "\n".join(context.notes)
    assert "fc.weight is left as it is: what hangs on it" in told
    assert "conv2.weight is left as it is: its weight is uniform already; factorise first" in told


# ---- and after -------------------------------------------------------------------------------------------------------


def test_factors_are_pruned_and_quantized_like_any_layer(context: Any, tmp_path: Path) -> None:
    model = net()
    stages = [
        {"method": "factorize.low_rank", "rank": 3},
        {"method": "prune.magnitude", "targets": ["fc"], "sparsity": {"fc": 0.5}},  # by the name it had
        {"method": "quantize.uniform", "bits": 4},
        {"method": "quantize.activations"},
    ]
    parsed = [parse_stage(stage) for stage in stages]
    check_order(parsed, model)
    for stage in parsed:
        stage.apply(model, context)
    assert [target.name for target in match(model, ["fc"])] == ["fc.0.weight", "fc.1.weight"]
    for target in match(model, ["fc"]):
        assert int((weight_of(target) == 0).sum()) >= weight_of(target).numel() // 2
    save(model, tmp_path / "a.terse", small_tensors="float32")
    back = load(tmp_path / "a.terse", net(seed=2))
    with torch.no_grad():
        torch.testing.assert_close(back(*context.inputs), model(*context.inputs))


def test_the_channels_between_factors_are_a_group_of_their_own(context: Any) -> None:
    model = net()
    factorise(model, context, rank={"conv2": 4}, decomposition="cp")
    graph = ChannelGraph(model, (context.inputs[0][:1],))
    group = next(g for g in graph for member in g.by_role("out") if member.tensor == "conv2.0.weight")
    assert group.units == 4
    assert group.prunable
    stage = parse_stage({"method": "prune.channels", "targets": ["conv2.0"], "ratio": 0.5})
    stage.apply(model, context)
    assert [layer.out_channels for layer in model.conv2] == [2, 2, 2, 12]
    fresh = restore(contents_of(model, Recipe(code={"small_tensors": "float32"}), None), "here", net(seed=2))  # type: ignore[arg-type]
    torch.testing.assert_close(fresh(*context.inputs), model.eval()(*context.inputs))


def test_a_plan_foresees_what_a_run_gives(tmp_path: Path) -> None:
    recipe = Recipe.parse(
        {
            "model": {"name": "mlp", "kwargs": {"inputs": 64, "hidden": [32, 32]}},
            "data": "digits",
            "train": {"epochs": 1},
            "stages": [{"method": "factorize.low_rank", "keep": 0.25, "ignore": ["fc3"], "objective": "outputs"}],
        }
    )
    model = build(recipe.model, 0)  # type: ignore[arg-type]
    planned = plan(recipe, model, (torch.zeros(1, 1, 8, 8),))
    outcome = run(recipe, *prepare(recipe), tmp_path)
    assert planned.macs_file == outcome.record.figures.macs_file == 8 * (64 + 32) + 8 * 64 + 320
    assert planned.predicted_bytes == pytest.approx(outcome.record.figures.file_bytes, rel=0.25)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of rank, keep"),
        ({"rank": 3, "keep": 0.5}, "not rank and keep"),
        ({"rank": 1.5}, "whole number"),
        ({"rank": True}, "whole number"),
        ({"rank": {}}, "no layer at all"),
        ({"rank": [3, 4]}, "two ranks belong to tucker"),
        ({"rank": [3, 4, 5], "decomposition": "tucker"}, "two of them"),
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.2}, "from 0 to 1"),
        ({"energy": 0.5, "decomposition": "cp"}, "no singular values for 'energy'"),
        ({"rank": 2, "objective": "outputs", "decomposition": "spatial"}, "closed form for svd"),
        ({"rank": 2, "batches": 3}, "belongs to objective 'outputs'"),
        ({"rank": 2, "decomposition": "sdv"}, "decomposition"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_stage({"method": "factorize.low_rank", **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, r"conv1.weight: rank 0 is not possible; as svd the layer can have 1 to 8 "),
        ({"rank": 9}, r"conv1.weight: rank 9 is not possible; as svd the layer can have 1 to 8 "),
        ({"rank": {"fc": 21}}, r"fc.weight: rank 21 is not possible; as svd the layer can have 1 to 20 "),
        ({"rank": {"conv*": [3, 4]}, "decomposition": "tucker"}, r"conv1.weight: .* can have 1 to 8 and 3 "),
        ({"rank": {"fcc": 2}}, "fcc"),
        ({"rank": 2, "targets": ["norm.weight"]}, "norm.weight cannot be factorised: a BatchNorm2d"),
        ({"rank": 2, "targets": ["fc.bias"]}, "fc.bias cannot be factorised"),
        ({"rank": 2, "targets": ["fc"], "decomposition": "cp"}, "fc.weight cannot be factorised: 'cp' takes conv"),
        ({"rank": {"fc": 2}, "decomposition": "spatial"}, "fc.weight cannot be factorised: 'spatial' takes conv"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_anything_is_trained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_order([parse_stage({"method": "factorize.low_rank", **options})], net())


def test_without_data_there_are_no_outputs(context: Any) -> None:
    context.batches = lambda *_: iter(())
    with pytest.raises(DataError, match="objective 'outputs' looks at the train data"):
        factorise(net(), context, rank=2, objective="outputs")
    factorise(model := net(), context, rank=2)  # needs none; MACs are then unknown
    assert chains(model)


def test_what_is_no_number_cannot_be_factorised(context: Any) -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"fc.weight holds NaN"):
        factorise(model, context, rank={"fc": 2})
