"""What every stage must do, on models of different kinds and after every stage that may come before it.

A new stage adds cheap settings to SETTINGS and is tested by that.
"""

import copy

import pytest
import torch
from torch import nn

from tersenet.core.stage import STAGES, Phase, parse_stage
from tersenet.core.training import Training
from tersenet.flow.prepare import register_methods
from tersenet.forms import Binary, Ternary, aliases, check_order, encode_model, form_of, load_codes, match, weight_of
from tersenet.graph.edits import apply, noted

register_methods()
TRAINING = {"steps": 6, "lr": 0.02}
SGD = {"steps": 6, "lr": 0.02, "optimizer": "sgd", "momentum": 0}
SETTINGS = {
    "factorize.decay": [{"strength": 0.1, "every": 2, "finetune": SGD}],
    "factorize.depthwise": [
        {"rank": 2, "finetune": TRAINING},
        {"rank": 2, "objective": "outputs", "finetune": TRAINING},
    ],
    "factorize.low_rank": [
        {"rank": 2, "finetune": TRAINING},
        {"parameters": 0.8, "objective": "outputs", "finetune": TRAINING},
    ],
    "prune.channels": [
        {"ratio": 0.5, "finetune": TRAINING},
        {"ratio": 0.6, "criterion": "taylor", "schedule": "iterative", "steps": 2, "finetune": TRAINING},
    ],
    "prune.depth": [{"zero_only": True, "finetune": TRAINING}],
    "prune.magnitude": [
        {"sparsity": 0.6, "finetune": TRAINING},
        {"sparsity": 0.7, "scope": "global", "schedule": "gradual", "frequency": 2, "finetune": TRAINING},
        {"sparsity": 0.7, "splice": True, "frequency": 2, "finetune": TRAINING},
        {"scope": "std", "quality": 0.5, "schedule": "iterative", "steps": 2, "finetune": TRAINING},
        {"sparsity": 0.5, "criterion": "taylor", "granularity": "filter", "finetune": TRAINING},
    ],
    "prune.reconstruct": [{"ratio": 0.5, "finetune": TRAINING}],
    "prune.regularize": [
        {"penalty": {"filters": 0.1, "elements": 0.05}, "training": SGD, "finetune": TRAINING},
        {"penalty": {"channels": 0.1}, "form": "subgradient", "training": TRAINING, "finetune": TRAINING},
    ],
    "quantize.activations": [
        {"finetune": TRAINING},
        {"bits": 3, "scheme": "symmetric", "range": "lsq", "learn_step": True, "finetune": TRAINING},
    ],
    "quantize.binary": [
        {"finetune": TRAINING},
        {"scale": "none", "stochastic": True, "finetune": {"steps": 12, "lr": 0.05}},
    ],
    "quantize.equalize": [{}, {"absorb": True, "relu6": True}],
    "quantize.fold": [{}],
    "quantize.smooth": [{}, {"strength": 1.0, "batches": 1}],
    "quantize.ternary": [
        {"finetune": TRAINING},
        {"values": "fixed", "scale": "filter", "finetune": TRAINING},
    ],
    "quantize.int8": [{"ranges": ["minmax", "mse"], "batches": 1}],
    "quantize.uniform": [
        {"bits": 4, "finetune": TRAINING},
        {"bits": 3, "scheme": "affine", "per": "tensor", "range": "minmax", "learn_step": True, "finetune": TRAINING},
        {"bits": 4, "rounding": "adaptive", "adaptive": {"steps": 5}, "bias_correction": True, "finetune": TRAINING},
    ],
    "quantize.hash": [{"share": 0.3, "finetune": TRAINING}],
    "quantize.product": [
        {"groups": 1, "k": 2, "finetune": TRAINING},
        {"layout": "inputs", "size": 1, "k": 2, "codebook": "float16", "finetune": TRAINING},
    ],
    "quantize.rate_aware": [{"price": 1e-6, "step": 0.1, "finetune": TRAINING}],
    "quantize.rdoq": [
        {"price": 1e-6, "step": 0.1, "batches": 1, "finetune": TRAINING},
        {"price": 1e-6, "step": 0.2, "states": 4, "weighting": "none", "finetune": TRAINING},
    ],
    "quantize.share": [
        {"bits": 3, "finetune": TRAINING},
        {"bits": 4, "init": "exact", "codebook": "float16", "finetune": TRAINING},
    ],
}
STAGE_OPTIONS = [{"method": name, **options} for name in STAGES for options in SETTINGS[name]]


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


class TwoInputs(nn.Module):
    """Two inputs, no convolution, one of them tokens."""

    def __init__(self):
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(9, 6), nn.Bilinear(6, 4, 5), nn.Linear(5, 5)

    def forward(self, tokens, x):
        return self.head(torch.tanh(self.mix(self.words(tokens).mean(1), x)))


class Tied(nn.Module):
    """Shared parameters and a layer used twice."""

    def __init__(self):
        super().__init__()
        self.encoder, self.middle, self.decoder = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.middle(torch.tanh(self.middle(torch.tanh(self.encoder(x))))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


MODELS = {
    Convolutional: lambda: (torch.randn(8, 1, 4, 4),),
    TwoInputs: lambda: (torch.randint(9, (8, 3)), torch.randn(8, 4)),
    Tied: lambda: (torch.randn(8, 5),),
    Recurrent: lambda: (torch.randn(8, 3, 4),),
}


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def kind(request):
    return request.param


@pytest.fixture
def context(kind, toy_context):
    torch.manual_seed(0)
    return toy_context(MODELS[kind](), torch.randn(8, 5))


def build(kind):
    torch.manual_seed(1)
    return kind()


def label(options):
    return "-".join(str(v) for k, v in options.items() if k != "finetune")


stages = pytest.mark.parametrize("options", STAGE_OPTIONS, ids=label)


def test_every_stage_has_settings():
    assert set(SETTINGS) == set(STAGES)


@stages
def test_same_model_and_seed_give_the_same_result(kind, context, options):
    stage, again = parse_stage(options), copy.deepcopy(context)
    first, second = stage.apply(build(kind), context), stage.apply(build(kind), again)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert context.notes == again.notes


@stages
def test_the_result_goes_through_codes_into_a_fresh_model(kind, context, options):
    model = parse_stage(options).apply(build(kind), context)
    assert all((form_of(t) is None) == (parse_stage(options).phase <= Phase.SHAPE) for t in match(model))
    fresh = build(kind)
    codes = encode_model(model, "float32")
    apply(fresh, noted(model), {name: code.shape for name, code in codes.items()})
    load_codes(fresh, codes, aliases(model))
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(*context.inputs), model.eval()(*context.inputs))
    for ours, theirs in zip(match(model), match(fresh), strict=True):
        assert torch.equal(weight_of(ours), weight_of(theirs))


@stages
def test_it_computes_with_what_it_stores(kind, context, options):
    """Training moves the loss through the form: no layer goes on with a weight of its own."""
    model = parse_stage(options).apply(build(kind), context)
    weights = {target.name: weight_of(target).clone() for target in match(model)}
    context.finetune(model, Training.parse(options.get("finetune", TRAINING)))
    assert all(not torch.equal(weights[target.name], weight_of(target)) for target in match(model))


@pytest.mark.parametrize("later", STAGE_OPTIONS, ids=label)
@pytest.mark.parametrize("earlier", STAGE_OPTIONS, ids=label)
def test_what_one_stage_settled_survives_the_next_and_training(kind, context, earlier, later):
    first, second = parse_stage(earlier), parse_stage(later)
    if Phase.NOTHING < second.phase < first.phase:
        with pytest.raises(Exception, match="cannot follow"):
            check_order([first, second], build(kind))
        return
    check_order([first, second], build(kind))
    model = first.apply(build(kind), context)
    forms = {target.name: form_of(target) for target in match(model)}
    settled = {name: (form.support, form.distinct) if form else (None, None) for name, form in forms.items()}

    def kept(model):
        for target in match(model):
            support, distinct = settled.get(target.name, (None, None))  # factors are new weights
            weight = weight_of(target)
            assert support is None or not bool(weight[~support].any())
            assert distinct is None or weight.unique().numel() <= distinct
            if isinstance(forms.get(target.name), Binary | Ternary):  # ±1 stays ±1, ternary stays ternary
                assert isinstance(form_of(target), type(forms[target.name]))

    context.watch = kept
    kept(second.apply(model, context))
