"""Product quantization: the codebooks against explicit loops and scikit-learn, gradients as explicit sums, the file."""

from __future__ import annotations

import itertools
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tersenet.quantize.product  # noqa: F401
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, Product, attach, decode, form_of, latent_of, match, weight_of
from tersenet.forms.product import joined, pieces
from tersenet.quantize.product import compression
from tersenet.quantize.vectors import Metric, cluster, metric_of


def stage(**options):
    return parse_stage({"method": "quantize.product", **options})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(32, 2, 4, 4),), torch.randn(32, 4))


def only(model, name):
    return match(model, [name])[0]


def test_pieces_are_those_of_the_definition():
    """The matrix W [C_in, C_out] of the definition is the transposed weight: its row z, cut into m parts."""
    weight = torch.randn(8, 5)
    w = weight.T  # [C_in, C_out]
    found = pieces(weight, "outputs", 4)
    for group, row in itertools.product(range(4), range(5)):
        assert torch.equal(found[group, row], w[row, 2 * group : 2 * group + 2])
    kernels = torch.randn(3, 2, 2, 2)
    assert torch.equal(pieces(kernels, "kernels", 1)[0, 3], kernels[1, 1].reshape(-1))
    rows = pieces(kernels, "inputs", 4)
    assert torch.equal(rows[1, 2], kernels[2].reshape(-1)[2:4])


@given(st.sampled_from([("outputs", 3), ("inputs", 4), ("kernels", 1), ("outputs", 1), ("inputs", 1)]))
def test_joined_undoes_pieces(how):
    weight = torch.arange(6 * 2 * 2 * 2.0).reshape(6, 2, 2, 2)
    assert torch.equal(joined(pieces(weight, *how), how[0], weight.shape), weight)


def test_the_compression_formula():
    """512 × 512, m = 16, k = 50, by hand: 8,388,608 bits over 819,200 + 46,234.5…"""
    assert compression(512, 512, 16, 50) == pytest.approx(8_388_608 / (819_200 + 8192 * log2(50)))
    assert compression(10, 4, 4, 2**8) == pytest.approx(1280 / (32 * 256 * 4 + 8 * 40))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 5))
def test_every_vector_goes_to_its_nearest_centroid_and_every_centroid_is_a_mean(k, n, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, 3)).round(1)
    centroids, codes = cluster(vectors, k, seed)
    distances = ((vectors[:, None] - centroids[None]) ** 2).sum(2)
    assert (distances[np.arange(n), codes] <= distances.min(1) + 1e-9).all()
    for code in set(codes.tolist()):
        np.testing.assert_allclose(centroids[code], vectors[codes == code].mean(0), atol=1e-12)


def test_few_different_vectors_are_kept_as_they_are():
    vectors = np.array([[1.0, 2], [3, 4], [1, 2]])
    centroids, codes = cluster(vectors, 2, 0)
    np.testing.assert_array_equal(centroids[codes], vectors)


def test_a_metric_is_kmeans_in_its_own_coordinates():
    """(v − c)ᵀ G (v − c): no other centroid is nearer in it."""
    generator = np.random.default_rng(0)
    vectors, root = generator.normal(size=(60, 3)), generator.normal(size=(3, 3))
    gram = root @ root.T
    centroids, codes = cluster(vectors, 5, 0, Metric(grams=gram[None]))
    gaps = vectors[:, None] - centroids[None]
    distances = np.einsum("nkd,de,nke->nk", gaps, gram, gaps)
    assert (distances[np.arange(60), codes] <= distances.min(1) + 1e-9).all()
    plain = ((vectors[:, None] - centroids[None]) ** 2).sum(2).argmin(1)
    assert (plain != codes).any()


def test_weights_count_in_means():
    vectors, weights = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([3.0, 1, 1, 1])
    centroids, codes = cluster(vectors, 2, 0, Metric(weights=weights))
    assert centroids[codes].reshape(-1).tolist() == pytest.approx([0.25, 0.25, 10.5, 10.5])


@pytest.mark.parametrize("layout", ["outputs", "inputs", "kernels"])
@pytest.mark.parametrize("name", ["0", "3"])
def test_the_metric_is_the_error_of_the_layers_outputs(context, layout, name):
    """Mean squared change of outputs when pieces change, by running the layer."""
    if layout == "kernels" and name == "3":
        return
    model, batches = net().eval(), [context.inputs]
    target, groups = only(model, name), 1 if layout == "kernels" else 2
    metric = metric_of(model, target, layout, groups, batches)
    inputs = context.inputs[0] if name == "0" else model[:3](context.inputs[0]).detach()
    layer = model[int(name)]
    before = layer(inputs).detach()
    for group in range(groups):
        change = torch.zeros_like(weight_of(target))
        vectors = pieces(change, layout, groups).clone()
        gap = torch.randn(vectors.shape[2])
        vectors[group, 1] = gap
        with torch.no_grad():
            layer.weight.add_(joined(vectors, layout, change.shape))
            error = float((layer(inputs) - before).square().sum(1).mean())
            layer.weight.sub_(joined(vectors, layout, change.shape))
        if layout == "outputs":
            expected = float(metric.weights[1] * gap.square().sum())
        elif layout == "inputs":
            expected = float(gap.double().numpy() @ metric.of(group).grams[0] @ gap.double().numpy())
        else:  # mean over the input channels: two of them
            other = torch.zeros_like(vectors)
            other[0, 0] = gap
            with torch.no_grad():
                layer.weight.add_(joined(other, layout, change.shape))
                error = (error + float((layer(inputs) - before).square().sum(1).mean())) / 2
            expected = float(gap.double().numpy() @ metric.grams[0] @ gap.double().numpy())
        assert error == pytest.approx(expected, rel=1e-4)
        layer.weight.data.copy_(layer.weight.data)
        before = layer(inputs).detach()


def test_gradients_of_centroids_are_sums_over_their_members():
    weight = torch.randn(6, 5)
    index = torch.tensor([[0, 1, 0, 2, 1], [2, 2, 0, 1, 0]])
    form, latent = Product(index, 3, weight.shape, "outputs"), torch.randn(2, 3, 3, requires_grad=True)
    slope = torch.randn(6, 5)
    (form(latent) * slope).sum().backward()
    cut = pieces(slope, "outputs", 2)
    for group, k in itertools.product(range(2), range(3)):
        expected = sum((cut[group, z] for z in range(5) if index[group, z] == k), torch.zeros(3))
        torch.testing.assert_close(latent.grad[group, k], expected)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("objective", ["weights", "activations"])
@pytest.mark.parametrize(("layout", "cut"), [("outputs", {"groups": 2}), ("inputs", {"size": 2}), ("kernels", {})])
def test_what_is_stored_is_what_is_computed(context, layout, cut, objective, half):
    model = net()
    targets = ["0"] if layout == "kernels" else ["0", "3"]
    options = {"layout": layout, "objective": objective, "codebook": "float16" if half else "float32", **cut}
    stage(k=4, targets=targets, finetune={"steps": 3, "lr": 0.01}, **options).apply(model, context)
    for target in match(model, targets):
        form = form_of(target)
        assert isinstance(form, Product)
        found = decode(form.encode(latent_of(target)))
        assert torch.equal(found, weight_of(target)) and torch.unique(found).numel() <= form.distinct
        vectors = pieces(found, layout, len(form.index))
        assert all(len(torch.unique(own, dim=0)) <= 4 for own in vectors)


def test_activations_keep_outputs_closer_than_weights_do(toy_context):
    """The objective that it minimises; inputs of very different size make the difference."""
    x = torch.randn(64, 8) * torch.tensor([0.05, 3.0]).repeat(4)
    context, errors = toy_context((x,), torch.randn(64, 64)), {}
    for objective in ("weights", "activations"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64))
        before = model(x).detach()
        stage(layout="inputs", size=8, k=8, objective=objective).apply(model, context)
        errors[objective] = float((model(x) - before).square().mean())
    assert errors["activations"] < 0.8 * errors["weights"]


def test_zeros_stay_zero(context):
    model = net()
    mask = torch.rand(8, 24) > 0.5
    attach(only(model, "3"), Masked(mask))
    stage(groups=4, k=4, targets=["3"], finetune={"steps": 3, "lr": 0.1}).apply(model, context)
    target = only(model, "3")
    assert not bool(weight_of(target)[~mask].any()) and torch.equal(form_of(target).support, mask)
    assert torch.equal(decode(form_of(target).encode(latent_of(target))), weight_of(target))


def test_training_moves_codebooks_and_never_codes(context):
    model = net()
    plan = stage(groups=2, k=4, targets=["3"])
    plan.apply(model, context)
    target = only(model, "3")
    index, before = form_of(target).index.clone(), latent_of(target).detach().clone()
    context.finetune(model, parse_stage({"method": "quantize.share", "finetune": {"steps": 5, "lr": 0.1}}).finetune)
    assert torch.equal(form_of(target).index, index) and not torch.equal(latent_of(target), before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 4}, "needs either 'groups'"),
        ({"k": 4, "groups": 2, "size": 2}, "needs either 'groups'"),
        ({"k": 0, "groups": 2}, "greater than 0"),
        ({"k": 4, "layout": "kernels", "size": 2}, "leave out 'size'"),
        ({"k": 4, "groups": 5, "targets": ["3"]}, r"3.weight has 8 outputs, which cannot be cut into 5 equal pieces"),
        ({"k": 4, "size": 5, "layout": "inputs", "targets": ["3"]}, r"3.weight: pieces of 5 entries do not divide"),
        ({"k": 25, "groups": 2, "targets": ["3"]}, r"3.weight: k is 25, but each codebook stands for 24 pieces only"),
        ({"k": 4, "layout": "kernels", "targets": ["3"]}, r"3.weight \(Linear\) has no kernels"),
        ({"k": 4, "groups": 1, "targets": ["3.bias"]}, "nothing in it can be cut"),
    ],
)
def test_mistakes_are_told_before_training(options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        stage(**options).check(net())


LAYERS = {
    "conv": (nn.Conv2d(2, 4, 3, padding="same"), "needs padding that is given in numbers"),
    "words": (nn.Embedding(4, 4), "knows linear layers and Conv2d"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_whose_outputs_cannot_be_kept_are_named(toy_context, name):
    layer, sentence = LAYERS[name]
    context = toy_context((torch.randn(3, 2, 4, 4),), torch.randn(3, 4))
    with pytest.raises(RecipeError, match=rf"^{name}\.weight.*objective 'activations' {sentence}"):
        stage(groups=2, k=2, objective="activations").apply(nn.ModuleDict({name: layer}), context)


def test_weights_that_are_not_finite_are_told(context):
    model = net()
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"3.weight holds NaN or infinity"):
        stage(groups=2, k=4, targets=["3"]).apply(model, context)


def test_layers_without_settings_are_noted(context):
    model = net()
    stage(groups=2, k={"3": 4}).apply(model, context)
    assert form_of(only(model, "0")) is None
    assert any("0.weight is left as it is" in note for note in context.notes)
