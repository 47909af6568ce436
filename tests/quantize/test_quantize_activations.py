"""Rounded inputs against torch's own fake quantization, formulas written out, and what files hold of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet import artifact
from tersenet.core.change import Change
from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.load import restore
from tersenet.flow.pack import contents_of
from tersenet.forms.inputs import InputGrid, install
from tersenet.graph import ChannelGraph, remove
from tersenet.graph.edits import apply, noted
from tersenet.models.lenet5 import LeNet5
from tersenet.quantize.activations import ActivationQuantization
from tersenet.quantize.ranges import grid


def stage(**options):
    return parse_stage({"method": ActivationQuantization.method, **options})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(2, 6, 3), nn.Linear(24, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(32, 2, 4, 4),), torch.randn(32, 4))


def torch_rounds(x, grid):
    return torch.fake_quantize_per_tensor_affine(x, float(grid.step), -grid.low, 0, grid.levels - 1)


def test_each_layer_computes_with_what_torch_rounds(context):
    model = stage(bits=5).apply(net(), context)
    (x,) = context.inputs
    grids = [layer.input_grid for layer in (model.conv, model.fc1, model.fc2)]
    plain = net()
    x1 = F.relu(plain.conv(torch_rounds(x, grids[0]))).flatten(1)
    x2 = F.relu(plain.fc1(torch_rounds(x1, grids[1])))
    torch.testing.assert_close(model(x), plain.fc2(torch_rounds(x2, grids[2])))
    assert [grid.low == 0 for grid in grids] == [
        False,
        True,
        True,
    ]  # what comes out of a ReLU needs no negative numbers
    assert all(len(x.unique()) <= 32 for x in (grids[0](x), grids[1](x1), grids[2](x2)))


@pytest.mark.parametrize("how", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_grids_are_those_of_all_values_the_layer_is_given(context, how, scheme):
    model = stage(bits=4, range=how, scheme=scheme).apply(net(), context)
    (x,) = context.inputs
    step, low = grid(torch.cat([x.flatten(), x.min()[None], x.max()[None]])[None], 4, scheme, how)
    assert (float(model.conv.input_grid.step), model.conv.input_grid.low) == (float(step), int(low))


def test_extremes_count_where_only_a_sample_is_kept(toy_context):
    x = torch.zeros(2, 2, 300, 300)
    x[1, 0, 7, 7], x[0, 1, 3, 3] = 5.0, -2.0
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    stage(range="minmax", batch_size=1).apply(model, toy_context((x,), torch.zeros(2, 3, 300, 300)))
    assert float(model[0].input_grid.step) == pytest.approx(7 / 255)
    assert float(model[0].input_grid(x).max()) == pytest.approx(5, abs=0.02)


def test_the_gradient_of_a_learned_step_is_that_of_the_paper():
    torch.manual_seed(0)
    x, slope = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    layer = InputGrid(0.3, -4, 8, learned=True)
    (layer(x) * slope).sum().backward()
    expected = 0.0
    for value, g in zip(x.detach().flatten().tolist(), slope.flatten().tolist(), strict=True):
        ratio = value / 0.3
        expected += g * (-4 if ratio < -4 else 3 if ratio > 3 else round(ratio) - ratio)
    assert float(layer.step.grad) == pytest.approx(expected / (5 * 3) ** 0.5, rel=1e-4)  # 5 features, 3 the highest
    inside = (x.detach() / 0.3 >= -4) & (x.detach() / 0.3 <= 3)
    assert torch.equal(x.grad, torch.where(inside, slope, 0))


def test_learned_steps_lower_the_loss_and_others_stay(context):
    fixed = stage(bits=3, finetune={"steps": 30, "lr": 0.01}).apply(net(), copy.deepcopy(context))
    before = stage(bits=3).apply(net(), copy.deepcopy(context))
    learned = stage(bits=3, learn_step=True, finetune={"steps": 30, "lr": 0.01}).apply(net(), context)
    assert torch.equal(fixed.fc1.input_grid.step, before.fc1.input_grid.step)
    assert not torch.equal(learned.fc1.input_grid.step, before.fc1.input_grid.step)
    assert context.loss(learned).item() < context.loss(before).item()


def test_bits_by_layer_and_layers_left_alone(context):
    model = stage(bits={"fc*": 2}).apply(net(), context)
    assert not hasattr(model.conv, "input_grid") and model.fc1.input_grid.levels == 4
    again = stage(targets=["fc1"]).apply(model, context)
    assert again.fc1.input_grid.levels == 4 and any("rounded already" in note for note in context.notes)


def test_a_layer_whose_forward_is_never_called_is_named(toy_context):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.attend(x, x, x)[0][:, 0])

    context = toy_context((torch.randn(6, 4, 8),), torch.randn(6, 3))
    model = stage().apply(Attends(), context)
    assert hasattr(model.head, "input_grid") and not hasattr(model.attend.out_proj, "input_grid")
    assert context.notes == ["the input of attend.out_proj is left as it is: the model does not call the layer"]


def test_layers_that_share_a_weight_have_grids_of_their_own_and_one_called_twice_has_one(toy_context):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
            self.two.weight = self.one.weight
            self.same = self.one

        def forward(self, x):
            return self.two(10 * self.same(self.one(x)))

    model = stage().apply(Tied(), toy_context((torch.randn(6, 5),), torch.randn(6, 5)))
    assert model.one is model.same and model.one.input_grid is not model.two.input_grid
    assert list(noted(model)) == ["one.input_grid", "two.input_grid"]


def test_the_file_rounds_inputs_too_for_zoo_own_and_stored_models(context, tmp_path: Path):
    model = stage(bits=4).apply(net(), context)
    (x,) = context.inputs
    tersenet.save(model, tmp_path / "own.terse", example=x)
    own, stored = tersenet.load(tmp_path / "own.terse", model=net()), tersenet.load(tmp_path / "own.terse")
    torch.testing.assert_close(own(x), model(x), atol=2e-3, rtol=0)  # biases and steps are float16 there
    torch.testing.assert_close(stored(x), own(x))
    assert not torch.allclose(own(x), net()(x), atol=2e-2)


def test_a_model_of_the_zoo_comes_back_bit_for_bit(toy_context):
    torch.manual_seed(0)
    model, images = LeNet5(), torch.rand(3, 1, 28, 28)
    stage(bits=4).apply(model, toy_context((images,), torch.zeros(3, 10)))
    recipe = Recipe.parse({"model": "lenet5", "code": {"small_tensors": "float32"}})
    data, _ = artifact.to_bytes(contents_of(model, recipe, None))
    back = restore(artifact.read_bytes(data), "file")
    assert torch.equal(back(images), model.eval()(images)) and back.fc1.input_grid.levels == 16


def test_channels_can_still_go(context):
    model = stage(bits=6).apply(net(), context)
    (x,) = context.inputs
    graph = ChannelGraph(model, x)
    group = next(g for g in graph.groups if any(m.tensor == "fc1.weight" and m.role == "out" for m in g.members))
    removal = remove(model, graph, {group.name: [0, 5]})
    assert model.fc1.weight.shape == (6, 24) and not removal.refused
    fresh = net()
    apply(fresh, noted(model), {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))


def test_files_that_lie_about_grids_are_refused():
    good = {"low": -8, "levels": 16}
    for path, options in (
        ("fc9.input_grid", good),
        ("input_grid", good),
        ("fc1.output", good),
        ("fc1.input_grid", {"low": -8}),
        ("fc1.input_grid", {**good, "step": 3}),
        ("fc1.input_grid", {"low": 1, "levels": 16}),
        ("fc1.input_grid", {"low": 0, "levels": 2**40}),
    ):
        with pytest.raises(ModelError):
            apply(net(), {path: Change("input_grid", options)}, {})
    with pytest.raises(ModelError, match="'surprise', which this version does not know"):
        apply(net(), {"fc1": Change("surprise", {})}, {})
    twice = net()
    install(twice.fc1, InputGrid(1.0, 0, 4))
    with pytest.raises(ModelError, match="it is another"):
        apply(twice, {"fc1.input_grid": Change("input_grid", good)}, {})


def test_mistakes_are_named(context, toy_context):
    for options, message in (
        ({"bits": 0}, "bits"),
        ({"bits": 33}, "bits"),
        ({"bits": 1, "scheme": "symmetric"}, "1 bit has no symmetric grid"),
        ({"percentile": 99.0}, "belongs to range 'percentile'"),
        ({"range": "lsq"}, "symmetric"),
        ({"learn_step": True}, "needs 'finetune'"),
        ({"bits": 9, "range": "entropy"}, "above 8 bits"),
    ):
        with pytest.raises(RecipeError, match=message):
            stage(**options)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    with pytest.raises(RecipeError, match=r"0\.weight is of a Embedding"):
        stage(targets=["0"]).check(words)
    stage().check(words)
    with pytest.raises(RecipeError, match="inside a model"):
        stage().check(nn.Linear(3, 2))
    broken = net()
    with torch.no_grad():
        broken.conv.bias[0] = float("nan")
    with pytest.raises(ModelError, match="the input of fc1 holds NaN"):
        stage().apply(broken, context)
    with pytest.raises(DataError, match="train split, which is empty"):
        stage().apply(net(), toy_context((torch.zeros(0, 2, 4, 4),), torch.zeros(0, 4)))
