"""The stage: how many values, where zeros go, what trains."""

import numpy as np
import pytest
import torch
from torch import nn

import tersenet.quantize
import tersenet.quantize.share as share_module
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, Shared, attach, decode, encode_model, form_of, latent_of, match, weight_of


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 8),), torch.randn(16, 4))


def share(model, context, **options):
    return parse_stage({"method": "quantize.share", **options}).apply(model, context)


def halve(model):
    for target in match(model):
        weight = weight_of(target)
        attach(target, Masked(weight.abs() >= weight.abs().median()))
    return model


def values(target):
    return set(weight_of(target).flatten().tolist())


@pytest.mark.parametrize("init", ["linear", "density", "random", "exact"])
@pytest.mark.parametrize("pruned", [False, True])
def test_at_most_two_to_the_bits_values_and_zeros_of_their_own(context, init, pruned):
    model = halve(net()) if pruned else net()
    supports = [weight_of(target) != 0 for target in match(model)]
    share(model, context, bits=3, init=init)
    for target, support in zip(match(model), supports, strict=True):
        weight = weight_of(target)
        assert torch.equal(weight != 0, support)
        assert 4 <= len(values(target) - {0.0}) <= 8
        form = form_of(target)
        assert form.zero == pruned and form.distinct == form.codes + pruned
    assert context.notes == []


def test_each_value_is_the_mean_of_its_members(context):
    model = halve(net())
    before = [weight_of(target).clone() for target in match(model)]
    share(model, context, bits=2)
    for target, old in zip(match(model), before, strict=True):
        for value in values(target) - {0.0}:
            assert value == pytest.approx(old[weight_of(target) == value].mean().item(), rel=1e-6)


def test_deep_compression_figure_3(context):
    """2 bits on the paper's 4×4 weights give its clusters and its centroids −1.00, 0.00, 1.50, 2.00."""
    layer = nn.Linear(4, 4)
    weight = [[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 0.0, -1.03], [1.87, 0.0, 1.53, 1.49]]
    layer.weight.data = torch.tensor(weight)
    share(layer, context, bits=2)
    form = form_of(match(layer)[0])
    assert form.index.tolist() == [[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]]
    torch.testing.assert_close(latent_of(match(layer)[0]).detach(), torch.tensor([-1.0, 0.0, 1.5, 2.0]))


def test_bits_by_class_and_layer(context):
    model = nn.Sequential(nn.Conv1d(1, 8, 8), nn.Flatten(), nn.Linear(8, 40), nn.Linear(40, 4))
    share(model, context, bits={"Conv1d": 4, "2": 2})
    codes = [form_of(target).codes if form_of(target) else None for target in match(model)]
    assert codes[0] in range(9, 17) and codes[1:] == [4, None]
    assert context.notes == ["3.weight is left as it is, since no bits are given for it"]


def test_few_values_are_kept_bit_for_bit(context):
    layer = nn.Linear(4, 4)
    layer.weight.data = torch.tensor([0.1, 0.0, -0.3, 1e-20]).repeat(4, 1)
    before = layer.weight.detach().clone()
    share(layer, context, bits=2)
    assert torch.equal(layer.weight, before) and form_of(match(layer)[0]).codes == 4


def test_zeros_of_an_unpruned_weight_are_values_like_others(context):
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[0.0, 0.2, 5.0]])
    share(layer, context, bits=1)
    assert layer.weight.flatten().tolist() == pytest.approx([0.1, 0.1, 5.0])


def test_finetune_trains_values_and_biases_and_nothing_else_changes(context):
    model = halve(net())
    codes, before = [], context.evaluate(model)["loss"]
    share(model, context, bits=2)
    codes = [form_of(target).index.clone() for target in match(model)]
    books = [latent_of(target).detach().clone() for target in match(model)]
    bias, shared = model[0].bias.detach().clone(), context.evaluate(model)["loss"]
    share(model, context, bits=2, finetune={"steps": 150, "lr": 0.02})
    assert context.evaluate(model)["loss"] < min(shared, before)
    for target, code, book in zip(match(model), codes, books, strict=True):
        assert torch.equal(form_of(target).index, code) and not torch.equal(latent_of(target), book)
        assert len(values(target)) <= 5
    assert not torch.equal(model[0].bias, bias)


def test_float16_codebook_is_stored_in_two_bytes_and_computed_with(context):
    model = halve(net())
    share(model, context, bits=3, codebook="float16", finetune={"steps": 5, "lr": 0.01})
    for target in match(model):
        code = encode_model(model)[target.name]
        assert code.tables["codebook"].dtype == np.float16
        assert torch.equal(decode(code), weight_of(target))
        assert torch.equal(weight_of(target), weight_of(target).half().float())


def test_random_init_depends_on_the_seed_alone(toy_context):
    def run(seed):
        context = toy_context((torch.zeros(1, 8),), torch.zeros(1, 4), seed=seed)
        return weight_of(match(share(net(), context, bits=3, init="random"))[0])

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_too_large_for_exact_is_told(context, monkeypatch):
    monkeypatch.setattr("tersenet.quantize.kmeans.EXACT_CELLS", 4 * 90)
    share(net(), context, bits=2, init="exact")
    assert context.notes == ["0.weight: exact k-means with 4 values needs too much memory; started by density instead"]
    assert share_module.WeightSharing is tersenet.quantize.WeightSharing


def test_a_weight_that_is_pruned_to_nothing(context):
    layer = nn.Linear(3, 3)
    attach(match(layer)[0], Masked(torch.zeros(3, 3, dtype=torch.bool)))
    share(layer, context, bits=2)
    assert isinstance(form_of(match(layer)[0]), Shared) and not layer.weight.any()
    assert torch.equal(decode(encode_model(layer)["weight"]), torch.zeros(3, 3))


def test_not_finite(context):
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"0\.weight holds NaN or infinity"):
        share(model, context)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": 0}, "bits: must be a whole number from 1 to 16, not 0"),
        ({"bits": 17}, "not 17"),
        ({"bits": 4.5}, "not 4.5"),
        ({"bits": {"fc1": 0}}, "for 'fc1' it must be a whole number"),
        ({"init": "kmeans++"}, "init: input should be 'linear', 'density', 'random' or 'exact'"),
        ({"codebook": "float8"}, "codebook: input should be"),
        ({"bit": 4}, "did you mean 'bits'"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        parse_stage({"method": "quantize.share", **options}, ("stages", 0))


def test_importance_moves_values_to_where_the_loss_bends(toy_context):
    """The loss of a linear layer on one large and one small input: weights on the large one count (by its square)."""
    torch.manual_seed(0)
    x = torch.randn(256, 2) * torch.tensor([5.0, 0.05])
    context = toy_context((x,), torch.randn(256, 40))
    losses = {}
    for importance in (None, "fisher"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 40, bias=False))
        with torch.no_grad():
            model[0].weight.mul_(torch.tensor([0.1, 5.0]))  # what k-means would look at counts least
        before = model(x).detach()
        options = {} if importance is None else {"importance": importance, "batch_size": 8, "batches": 32}
        parse_stage({"method": "quantize.share", "bits": 2, "init": "density", **options}).apply(model, context)
        losses[importance] = float((model(x) - before).square().mean())
    assert losses["fisher"] < 0.8 * losses[None]


def test_importance_is_the_mean_squared_gradient(toy_context):
    from tersenet.train.gradients import fisher

    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(12, 3), torch.randn(12, 2)
    context = toy_context((x,), y)
    (found,) = fisher(model, [model.weight], context.batches("train", None, 4), context.loss)
    expected = torch.zeros(2, 3)
    for first in (0, 4, 8):
        gap = model(x[first : first + 4]).detach() - y[first : first + 4]
        expected += (2 / 8 * gap.T @ x[first : first + 4]).square() / 3
    torch.testing.assert_close(found, expected)
    assert model.weight.grad is None


@pytest.mark.parametrize("options", [{"importance": "fisher", "init": "exact"}, {"batches": 3}])
def test_importance_goes_with_its_options(options):
    with pytest.raises(RecipeError, match="'importance'"):
        parse_stage({"method": "quantize.share", "bits": 3, **options})


def test_codebooks_of_one_byte_are_n_over_127_of_the_largest():
    latent = torch.tensor([-0.4, 0.1, 0.25])
    form = Shared(torch.tensor([0, 1, 2, 1]), 3, zero=False, precision="int8")
    weight = form(latent)
    expected = torch.tensor([-127, 32, 79]) / 127 * 0.4
    assert torch.equal(weight, expected[[0, 1, 2, 1]])
    code = form.encode(latent)
    assert code.tables["codebook"].dtype == np.int8 and torch.equal(decode(code), weight)
    assert torch.equal(form(form.right_inverse(weight)), weight)
