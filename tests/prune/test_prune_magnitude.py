"""The stage: exact counts, masks that hold through training, schedules, scopes, splicing."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tersenet.prune
import tersenet.quantize  # noqa: F401
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, form_of, latent_of, match, weight_of


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 6),), torch.randn(16, 4))


def prune(model, context, **options):
    return parse_stage({"method": "prune.magnitude", **options}).apply(model, context)


def kept(model):
    return {target.name: int(weight_of(target).count_nonzero()) for target in match(model)}


TRAINING = {"steps": 8, "lr": 0.02}


def test_one_shot_keeps_the_largest_untouched(context):
    model = net()
    before = {target.name: weight_of(target).clone() for target in match(model)}
    prune(model, context, sparsity=0.75)
    assert kept(model) == {"0.weight": 15, "2.weight": 10}
    for target in match(model):
        weight, old = weight_of(target), before[target.name]
        assert torch.equal(weight[weight != 0], old[weight != 0])
        assert weight[weight != 0].abs().min() >= old[weight == 0].abs().max()
    assert context.trained == [] and context.notes == []


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.sampled_from(["magnitude", "square", "random", "smallest_kept"]))
def test_counts_are_exact_even_with_ties(toy_context, sparsity, criterion):
    model = net()
    with torch.no_grad():
        for target in match(model):
            weight_of(target).copy_(weight_of(target).sign())  # all tied
    context = toy_context((torch.zeros(1, 6),), torch.zeros(1, 4))
    prune(model, context, sparsity=sparsity, criterion=criterion)
    for target in match(model):
        n = weight_of(target).numel()
        assert kept(model)[target.name] == max(n - round(sparsity * n), 1)


def test_the_controls_differ_from_magnitude(context):
    masks = {}
    for criterion in ("magnitude", "square", "random", "smallest_kept"):
        model = prune(net(), context, sparsity=0.5, criterion=criterion)
        masks[criterion] = form_of(match(model)[0]).mask
    assert torch.equal(masks["magnitude"], masks["square"])
    assert torch.equal(masks["magnitude"], ~masks["smallest_kept"])
    assert not torch.equal(masks["random"], masks["magnitude"])
    again = form_of(match(prune(net(), context, sparsity=0.5, criterion="random"))[0]).mask
    assert torch.equal(masks["random"], again)


def test_masks_hold_through_training(context):
    supports = []
    context.watch = lambda model: supports.append([(weight_of(t) != 0) for t in match(model)])
    model = prune(net(), context, sparsity=0.5, finetune={"steps": 20, "lr": 0.1, "l2": 0.01})
    forms = [form_of(target) for target in match(model)]
    assert len(supports) == 20
    for step in supports:
        assert all(not bool((support & ~form.mask).any()) for support, form in zip(step, forms, strict=True))


def test_global_scope_is_the_order_of_all_weights(context):
    model = net()
    flat = torch.cat([weight_of(target).abs().flatten() for target in match(model)])
    prune(model, context, sparsity=0.8, scope="global")
    masks = torch.cat([form_of(target).mask.flatten() for target in match(model)])
    assert int(masks.sum()) == 20 and flat[masks].min() > flat[~masks].max()


def test_global_scope_leaves_every_weight_something_and_says_so(context):
    model = net()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    prune(model, context, sparsity=0.9, scope="global")
    assert kept(model) == {"0.weight": 9, "2.weight": 1}
    assert context.notes == ["2.weight would have lost every weight under scope 'global'; its highest-scored is kept"]


def test_deviation_scope(context):
    model = net()
    expected = {t.name: int((weight_of(t).abs() >= 1.2 * weight_of(t).std(correction=0)).sum()) for t in match(model)}
    prune(model, context, scope="std", quality=1.2)
    assert kept(model) == expected and 0 < expected["0.weight"] < 60
    other = prune(net(), context, scope="std", quality={"0": 1.2, "2": 99.0})
    assert kept(other) == {"0.weight": expected["0.weight"], "2.weight": 1}
    assert context.notes == ["2.weight keeps a single weight at quality 99"]


def test_sparsity_by_layer_leaves_the_others_alone_and_says_so(context):
    model = prune(net(), context, sparsity={"2": 0.5})
    assert kept(model) == {"0.weight": 60, "2.weight": 20} and form_of(match(model)[0]) is None
    assert context.notes == ["0.weight is left as it is, since no sparsity is given for it"]


def test_what_is_pruned_stays_pruned(context):
    model = prune(net(), context, sparsity=0.5)
    first = [form_of(target).mask.clone() for target in match(model)]
    prune(model, context, sparsity=0.8, criterion="random", finetune=TRAINING)
    second = [form_of(target).mask for target in match(model)]
    assert kept(model) == {"0.weight": 12, "2.weight": 8}
    assert all(not bool((b & ~a).any()) for a, b in zip(first, second, strict=True))
    prune(model, context, sparsity=0.3)
    assert kept(model) == {"0.weight": 12, "2.weight": 8}
    assert context.notes[-1] == "2.weight: already pruned to 8 weights, fewer than the 28 asked for; left as it is"


def test_a_sparsity_that_leaves_nothing_keeps_one(context):
    model = prune(net(), context, sparsity=0.999)
    assert kept(model) == {"0.weight": 1, "2.weight": 1}
    assert len(context.notes) == 2 and "would leave nothing of 60 weights; one is kept" in context.notes[0]


def test_iterative_schedule(context):
    counts = []
    stage = parse_stage(
        {"method": "prune.magnitude", "sparsity": 0.9, "schedule": "iterative", "steps": 3, "finetune": TRAINING}
    )
    finetune = context.finetune

    def spy(model, training, on_step=None):
        counts.append(kept(model)["0.weight"])
        finetune(model, training, on_step=on_step)

    context.finetune = spy
    model = stage.apply(net(), context)
    assert counts == [60 - round((1 - 0.1 ** (i / 3)) * 60) for i in (1, 2, 3)] == [28, 13, 6]
    assert kept(model)["0.weight"] == 6 and len(context.trained) == 3


def test_iterative_deviation_looks_at_what_is_left(context):
    options = {"scope": "std", "quality": 0.8}
    once = kept(prune(net(), context, **options))
    twice = kept(prune(net(), context, schedule="iterative", steps=2, finetune={"steps": 0}, **options))
    model = prune(net(), context, **options)
    weight = weight_of(match(model)[0])
    left = weight[weight != 0]
    assert twice["0.weight"] == int((left.abs() >= 0.8 * left.std(correction=0)).sum()) <= once["0.weight"]


def test_gradual_schedule_follows_the_cubic(context):
    seen = []
    context.watch = lambda model: seen.append(kept(model)["0.weight"])
    options = {"schedule": "gradual", "begin": 0.2, "end": 0.8, "frequency": 2}
    model = prune(net(), context, sparsity=0.9, finetune={"steps": 20, "lr": 0.01}, **options)

    def at(step):  # masks change after steps 4, 6, …, 16
        return 60 - round((0.9 - 0.9 * (1 - (step - 4) / 12) ** 3) * 60)

    expected = [60] * 6 + [at(6)] * 2 + [at(8)] * 2 + [at(10)] * 2 + [at(12)] * 2 + [at(14)] * 2 + [6] * 4
    assert seen == expected
    assert kept(model) == {"0.weight": 6, "2.weight": 4}


def test_gradual_starts_from_what_is_pruned_already(context):
    model = prune(net(), context, sparsity=0.5)
    seen = []
    context.watch = lambda model: seen.append(kept(model)["0.weight"])
    prune(model, context, sparsity=0.8, schedule="gradual", frequency=1, end=1.0, finetune={"steps": 2, "lr": 0.01})
    assert seen == [30, 60 - round((0.8 - 0.3 / 8) * 60)] and kept(model)["0.weight"] == 12


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
@pytest.mark.parametrize("steps", [0, 3, 40])
def test_splicing_ends_with_a_fixed_mask_of_the_exact_count(context, scope, schedule, steps):
    options = {"splice": True, "frequency": 2, "scope": scope, "schedule": schedule, "final": {"steps": 3, "lr": 0.1}}
    model = prune(net(), context, sparsity=0.8, finetune={"steps": steps, "lr": 0.05}, **options)
    assert sum(kept(model).values()) == 20
    for target in match(model):
        form, latent = form_of(target), latent_of(target)
        assert isinstance(form, Masked) and not bool(form.splice)
        assert scope == "global" or int(form.mask.sum()) == {"0.weight": 12, "2.weight": 8}[target.name]
        latent.grad = None
        weight_of(target)
        getattr(target.module, target.attribute).sum().backward()
        assert torch.equal(latent.grad, form.mask.float())


@pytest.mark.parametrize(
    "schedule", [{}, {"schedule": "gradual"}, {"splice": True}, {"schedule": "gradual", "splice": True}]
)
@pytest.mark.parametrize("stop", [0, 3, 7, 12, 19])
def test_training_can_be_resumed_at_any_step(toy_context, schedule, stop):
    """Apply again from the start; a `finetune` that loads the state at `stop` and goes on must give the same."""
    torch.manual_seed(1)
    context = toy_context((torch.randn(16, 6),), torch.randn(16, 4))
    options = {"sparsity": 0.8, **schedule, "finetune": {"steps": 20, "lr": 0.05, "optimizer": "sgd"}}
    options |= {"frequency": 2} if schedule else {}
    whole = copy.deepcopy(context)
    states = {}

    def part(model, training, on_step, first):
        optimizer = torch.optim.SGD(model.parameters(), lr=training.lr)
        if first == 0 and on_step:
            on_step(0, 20)
        states.setdefault(0, copy.deepcopy(model.state_dict()))
        for step in range(first + 1, 21):
            optimizer.zero_grad()
            whole.loss(model).backward()
            optimizer.step()
            if on_step:
                on_step(step, 20)
            states.setdefault(step, copy.deepcopy(model.state_dict()))

    context.finetune = lambda model, training, on_step=None: part(model, training, on_step, 0)
    unbroken = prune(net(), context, **options)

    def resumed(model, training, on_step=None):
        model.load_state_dict(states[stop], strict=True)
        part(model, training, on_step, stop)

    context.finetune = resumed
    again = prune(net(), context, **options)
    finished = copy.deepcopy(context)
    finished.finetune = lambda model, training, on_step=None: model.load_state_dict(states[20], strict=True)
    replayed = prune(net(), finished, **options)
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor) and torch.equal(replayed.state_dict()[name], tensor)


def test_a_weight_that_is_not_finite(context):
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"2\.weight holds NaN or infinity"):
        prune(model, context, sparsity=0.5)


def test_pruning_after_sharing_is_an_error(context):
    model = parse_stage({"method": "quantize.share"}).apply(net(), context)
    with pytest.raises(RecipeError, match="prune first"):
        prune(model, context, sparsity=0.5)


@pytest.mark.parametrize("options", [{}, {"schedule": "gradual", "frequency": 2}, {"splice": True, "frequency": 2}])
def test_nothing_of_a_pruned_weight_is_left_behind(context, options):
    """Adam's momentum moves pruned latents on; they would count in an L1 penalty or come back with another form."""
    model = prune(net(), context, sparsity=0.8, **options, finetune={"steps": 20, "lr": 0.05, "l2": 0.01})
    for target in match(model):
        assert not bool(latent_of(target)[~form_of(target).mask].any())


def test_a_run_that_calls_nothing_back_still_reaches_its_sparsity(context):
    context.finetune = lambda model, training, on_step=None: None
    model = prune(net(), context, sparsity=0.8, schedule="gradual", finetune=TRAINING)
    assert kept(model) == {"0.weight": 12, "2.weight": 8}
