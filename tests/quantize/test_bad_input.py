"""What every quantizer says where it cannot do what it is asked: one sentence that names the layer."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from tersenet.core.errors import DataError, ModelError, RecipeError, TersenetError
from tersenet.core.stage import STAGES, parse_stage
from tersenet.flow.prepare import register_methods
from tersenet.forms import match, weight_of

register_methods()
TRAINING = {"steps": 2, "lr": 0.01}
CALIBRATED = [
    {"method": "quantize.activations"},
    {"method": "quantize.equalize"},
    {"method": "quantize.fold"},
    {"method": "quantize.int8"},
    {"method": "quantize.product", "groups": 2, "k": 2, "objective": "activations"},
    {"method": "quantize.rdoq", "price": 1e-6, "step": 0.1, "batches": 1},
    {"method": "quantize.share", "bits": 2, "importance": "fisher"},
    {"method": "quantize.smooth"},
    {"method": "quantize.uniform", "bits": 4, "bias_correction": True},
    {"method": "quantize.uniform", "bits": 4, "rounding": "adaptive", "adaptive": {"steps": 3}},
    {"method": "quantize.uniform", "mixed": {"average": 4}},
]
"""Stages that look at data."""

WITHOUT_DATA = [
    {"method": "quantize.binary"},
    {"method": "quantize.binary", "scale": "none"},
    {"method": "quantize.hash", "share": 0.5},
    {"method": "quantize.product", "groups": 2, "k": 2},
    {"method": "quantize.rate_aware", "price": 1e-6, "finetune": TRAINING},
    {"method": "quantize.share", "bits": 2},
    {"method": "quantize.share", "bits": 2, "init": "exact"},
    {"method": "quantize.ternary"},
    {"method": "quantize.ternary", "values": "fixed", "scale": "filter"},
    {"method": "quantize.uniform", "bits": 4},
    {"method": "quantize.uniform", "bits": 4, "range": "entropy", "scheme": "affine"},
]
ALL = [*WITHOUT_DATA, *CALIBRATED]
LEAVING = ("quantize.equalize", "quantize.fold", "quantize.smooth")
"""Stages that leave a weight as it is, with a note."""


def label(options):
    return "-".join(str(value) for value in options.values())


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4)),
    ).eval()


def data(toy_context, examples=16):
    torch.manual_seed(1)
    return toy_context((torch.rand(examples, 2, 4, 4),), torch.zeros(examples, 4))


def told(error):
    """The message, which is one sentence of a readable length."""
    message = str(error)
    assert "\n" not in message and 20 < len(message) < 250 and not message.endswith(".")
    return message


def test_every_quantizer_is_in_the_matrix():
    assert {options["method"] for options in ALL} == {name for name in STAGES if name.startswith("quantize.")}


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("options", ALL, ids=label)
def test_weights_that_are_not_finite(toy_context, options, value):
    model, context = net(), data(toy_context)
    with torch.no_grad():
        model[4].weight[1, 2] = value
    before = copy.deepcopy(model.state_dict())
    if options["method"] in LEAVING:
        parse_stage(options).apply(model, context)
        assert torch.equal(weight_of(match(model)[1]).isfinite(), before["4.weight"].isfinite())
        folds = options["method"] == "quantize.fold"
        assert folds or any("4.weight holds NaN or infinity" in note for note in context.notes)
        return
    named = r"\b4\b|the input of 6|gradients on the data"
    with pytest.raises(ModelError, match=named) as caught:
        parse_stage(options).apply(model, context)
    assert re.search("NaN or infini", told(caught.value))


@pytest.mark.parametrize("options", CALIBRATED, ids=label)
def test_no_data(toy_context, options):
    with pytest.raises(DataError) as caught:
        parse_stage(options).apply(net(), data(toy_context, 0))
    assert told(caught.value).startswith(options["method"])
    assert re.search("(there are none|which is empty); give (at least )?one example", str(caught.value))


@pytest.mark.parametrize("options", ALL, ids=label)
def test_equal_entries_stay_equal(toy_context, options):
    """One value is few enough: it is kept, up to the rounding of steps, but where signs or bits count for more."""
    model = net()
    with torch.no_grad():
        model[4].weight.fill_(0.75)
    parse_stage(options).apply(model, data(toy_context))
    weight = weight_of(match(model)[1])
    assert bool(weight.isfinite().all())
    if options["method"] not in ("quantize.hash", "quantize.rdoq", *LEAVING) and options.get("scale") != "none":
        torch.testing.assert_close(weight, torch.full((8, 24), 0.75), rtol=0.05, atol=0)


@pytest.mark.parametrize("options", ALL, ids=label)
def test_zeros_alone(toy_context, options):
    """Signs cannot be taken from them; everything else keeps them."""
    model = net()
    with torch.no_grad():
        model[4].weight.zero_()
    stage = parse_stage(options)
    if options["method"] in ("quantize.binary", "quantize.ternary"):
        with pytest.raises(ModelError, match=r"4\.weight holds zeros alone") as caught:
            stage.apply(model, data(toy_context))
        told(caught.value)
        return
    stage.apply(model, data(toy_context))
    found = weight_of(match(model)[1])
    assert bool((found.abs() < 0.05).all()) and bool(found.isfinite().all())


@pytest.mark.parametrize("options", ALL, ids=label)
def test_layers_without_weights(toy_context, options):
    """An empty weight is none; a model of such alone has nothing to work on."""
    model = nn.Sequential(nn.Linear(0, 4, bias=False))
    with pytest.raises(RecipeError, match="nothing to work on") as caught:
        parse_stage(options).apply(model, toy_context((torch.rand(3, 0),), torch.zeros(3, 4)))
    told(caught.value)
    with pytest.raises(RecipeError, match="'nowhere' matches no weight") as caught:
        parse_stage({**options, "targets": ["nowhere"]}).apply(net(), data(toy_context))
    told(caught.value)


VECTORS = [
    options for options in ALL if options["method"].split(".")[1] not in ("activations", "fold", "hash", "share")
]
"""Activations are those of whole layers, however they are named, and biases can share values."""


@pytest.mark.parametrize("options", VECTORS, ids=label)
def test_vectors(toy_context, options):
    """They are refused by name, before anything is trained."""
    with pytest.raises(RecipeError, match=r"4\.bias") as caught:
        parse_stage({**options, "targets": ["4.bias"]}).check(net())
    told(caught.value)


WRONG = {
    "quantize.activations": [("bits", 0), ("bits", 17), ("bits", 33), ("bits", 2.5), ("bits", "eight"), ("bits", {})],
    "quantize.uniform": [("bits", 0), ("bits", 17), ("bits", 33), ("bits", -1), ("bits", True), ("percentile", 101)],
    "quantize.share": [("bits", 0), ("bits", 17), ("bits", 33), ("bits", "many")],
    "quantize.hash": [("share", 0), ("share", 1.5), ("share", -0.1), ("share", "half")],
    "quantize.product": [("k", 0), ("k", 2.5), ("groups", 0), ("groups", -2)],
    "quantize.binary": [("scale", "row"), ("bound", 0)],
    "quantize.ternary": [("threshold", 0), ("threshold", 1), ("sparsity", 1)],
    "quantize.int8": [("ranges", []), ("ranges", ["widest"]), ("batches", 0)],
    "quantize.rate_aware": [("price", 0), ("price", -1), ("step", 0), ("ramp", 1)],
    "quantize.rdoq": [("step", 0), ("price", -1), ("states", 3)],
    "quantize.equalize": [("fold", "perhaps"), ("targts", ["fc"])],
    "quantize.fold": [("bits", 8)],
    "quantize.smooth": [("strength", 1.5), ("split", "test"), ("batches", 0)],
}


@pytest.mark.parametrize(("method", "option", "value"), [(m, *case) for m, cases in WRONG.items() for case in cases])
def test_options_out_of_range(method, option, value):
    valid = next(options for options in ALL if options["method"] == method)
    with pytest.raises(RecipeError) as caught:
        parse_stage({**valid, option: value})
    assert option in told(caught.value)


def test_errors_of_the_stages_inside_int8_name_int8(toy_context):
    with pytest.raises(RecipeError, match=r"^quantize\.int8 .*4\.bias is a vector$"):
        parse_stage({"method": "quantize.int8", "targets": ["4.bias"]}).check(net())
    stage = parse_stage({"method": "quantize.int8", "bias_correction": False})
    with pytest.raises(DataError, match=r"^quantize\.int8 takes its ranges from the train split, which is empty"):
        stage.apply(net(), data(toy_context, 0))


def test_notes_of_int8_leave_its_name_to_the_run(toy_context):
    """The context puts it in front of every note."""
    context = data(toy_context)
    parse_stage({"method": "quantize.int8"}).apply(net(), context)
    assert any(note.startswith("ranges of inputs by '") for note in context.notes)
    assert not any("quantize.int8" in note for note in context.notes)


UNFIT = [
    ({"method": "quantize.product", "groups": 5, "k": 2}, "0.weight has 6 outputs, which cannot be cut into 5 equal"),
    ({"method": "quantize.product", "size": 5, "k": 2}, "0.weight: pieces of 5 entries do not divide its 6"),
    ({"method": "quantize.product", "groups": 2, "k": 19}, "0.weight: k is 19, but each codebook stands for 18"),
    ({"method": "quantize.product", "layout": "kernels", "k": 2}, r"4.weight \(Linear\) has no kernels"),
    ({"method": "quantize.uniform", "bits": {"4": 4, "Linear": 8}}, "4.weight is given twice"),
]


@pytest.mark.parametrize(("options", "sentence"), UNFIT, ids=lambda case: case if isinstance(case, str) else "")
def test_options_that_do_not_fit_a_weight(toy_context, options, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        parse_stage(options).apply(net(), data(toy_context))
    told(caught.value)


def test_more_values_than_entries_are_all_kept(toy_context):
    model = net()
    before = [weight_of(target).clone() for target in match(model)]
    parse_stage({"method": "quantize.share", "bits": 16}).apply(model, data(toy_context))
    for target, weight in zip(match(model), before, strict=True):
        torch.testing.assert_close(weight_of(target), weight)


class Words(nn.Module):
    """Rows that are looked up, and a layer with two inputs."""

    def __init__(self):
        super().__init__()
        self.words, self.mix = nn.Embedding(9, 6), nn.Bilinear(6, 4, 4)

    def forward(self, tokens, x):
        return self.mix(self.words(tokens).mean(1), x)


@pytest.mark.parametrize("method", ["quantize.activations", "quantize.int8"])
def test_kinds_of_layers_that_cannot_be_taken(toy_context, method):
    context = toy_context((torch.randint(9, (4, 3)), torch.rand(4, 4)), torch.zeros(4, 4))
    for targets in (["words"], ["mix"]):
        with pytest.raises(TersenetError, match=rf"{targets[0]}\.weight is of an? (Embedding|Bilinear)") as caught:
            parse_stage({"method": method, "targets": targets}).apply(Words(), context)
        told(caught.value)
