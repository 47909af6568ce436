"""Granules against plain indexing, exact counts, patterns and n:m by brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tersenet.quantize  # noqa: F401
from tersenet.core.errors import RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import NM, Masked, check_order, form_of, match, weight_of
from tersenet.prune import Granularity
from tersenet.prune.pattern import dictionary, nearest_pattern
from tersenet.prune.select import normalised


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 8)
    )


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(6, 4, 4, 4),), torch.randn(6, 8))


def prune(model, context, **options):
    return parse_stage({"method": "prune.magnitude", **options}).apply(model, context)


def masks(model):
    return {target.name: form_of(target).mask for target in match(model)}


SLICES = {  # what goes together in convolution [8, 4, 3, 3], transposed [8, 2, 2, 2] in two groups, linear [8, 36]
    "filter": (
        [(n,) for n in range(8)],
        [(slice(4 * g, 4 * g + 4), o) for g in range(2) for o in range(2)],
        [(n,) for n in range(8)],
    ),
    "channel": (
        [(slice(None), c) for c in range(4)],
        [(c,) for c in range(8)],
        [(slice(None), c) for c in range(36)],
    ),
    "vector": (
        [*itertools.product(range(8), range(4), range(3))],
        [*itertools.product(range(8), range(2), range(2))],
        [(n,) for n in range(8)],
    ),
    "kernel": ([*itertools.product(range(8), range(4))], [*itertools.product(range(8), range(2))], None),
}


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("name", SLICES)
def test_granules_are_the_slices_they_are_named_after(name, place):
    target = match(net())[place]
    if SLICES[name][place] is None:
        with pytest.raises(RecipeError, match=r"4\.weight \(Linear\) has no kernels"):
            Granularity(name).granules(target)
        return
    numbers = torch.arange(weight_of(target).numel()).view(target.shape)
    expected = {tuple(sorted(numbers[index].reshape(-1).tolist())) for index in SLICES[name][place]}
    assert {tuple(sorted(row)) for row in Granularity(name).granules(target).places.tolist()} == expected


def test_blocks_and_pieces_of_the_matrix_view():
    target = match(net())[2]
    numbers = torch.arange(8 * 36).view(8, 36)
    blocks = Granularity("block", (4, 6)).granules(target).places
    assert blocks[7].tolist() == numbers[4:8, 6:12].reshape(-1).tolist() and len(blocks) == 12
    pieces = Granularity("vector", (9,)).granules(target).places
    assert pieces[5].tolist() == numbers[1, 9:18].tolist() and len(pieces) == 32


@pytest.mark.parametrize("how", ["sum", "mean", "l2"])
def test_reduction_counts_what_is_held(how):
    target = match(net())[0]
    scores, held = torch.rand(8, 4, 3, 3), torch.rand(8, 4, 3, 3) > 0.5
    held[3] = False
    found = Granularity("filter").granules(target).reduce(scores, held, how)
    rows = (scores * held).double().view(8, -1)
    expected = {"sum": rows.sum(1), "mean": rows.mean(1), "l2": rows.square().sum(1).sqrt()}[how]
    expected[3] = -torch.inf
    torch.testing.assert_close(found, expected)


GRANULAR = [("vector", (2,)), ("block", (2, 2)), ("filter", ()), ("channel", ())]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.95), st.sampled_from(GRANULAR), st.sampled_from(["layer", "global"]), st.booleans())
def test_whole_granules_go_in_exact_numbers(toy_context, sparsity, kind, scope, ties):
    model = net()
    if ties:
        for target in match(model):
            weight_of(target).copy_(weight_of(target).sign())
    name, size = kind
    prune(model, toy_context((), ()), sparsity=sparsity, granularity=name, size=size, scope=scope)
    kept, counts = {}, {}
    for target in match(model):
        rows = form_of(target).mask.reshape(-1)[Granularity(name, size).granules(target).places]
        assert torch.equal(rows.any(1), rows.all(1))
        kept[target.name], counts[target.name] = int(rows.all(1).sum()), len(rows)
    if scope == "layer":
        assert all(kept[n] == max(counts[n] - round(sparsity * counts[n]), 1) for n in kept)
    else:
        total = sum(counts.values())
        assert sum(kept.values()) == max(total - round(sparsity * total), 3) and min(kept.values()) > 0


def test_filters_of_the_largest_l1_norm_stay(context):
    model = net()
    norms = model[0].weight.detach().abs().sum((1, 2, 3))
    prune(model, context, sparsity=0.5, granularity="filter", targets=["0"])
    alive = form_of(match(model)[0]).mask.flatten(1).any(1)
    assert torch.equal(alive, norms >= norms.sort().values[4])


def test_what_is_pruned_stays_pruned_inside_granules_that_are_kept(context):
    model = prune(net(), context, sparsity=0.5)
    first = {name: mask.clone() for name, mask in masks(model).items()}
    prune(model, context, sparsity=0.5, granularity="filter")
    for name, mask in masks(model).items():
        assert not bool((mask & ~first[name]).any()) and bool(mask.any())


@pytest.mark.parametrize("by", [None, "mean", "l2"])
def test_normalised_scores_do_not_mind_the_scale_of_a_layer(context, by):
    scaled = net()
    with torch.no_grad():
        scaled[4].weight *= 1000
    options = {"sparsity": 0.5, "scope": "global", "granularity": "filter", "normalize": by}
    ours, theirs = masks(prune(net(), context, **options)), masks(prune(scaled, context, **options))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) == (by is not None)


def test_normalised_by_hand():
    scores = torch.tensor([3.0, -torch.inf, 4.0, 5.0])
    assert normalised(scores, "mean").tolist() == [0.75, -torch.inf, 1.0, 1.25]
    assert normalised(scores[:3], "l2").tolist() == [0.6, -torch.inf, 0.8]
    assert normalised(torch.zeros(2), "mean").tolist() == [0, 0]


def test_threshold(context):
    model = net()
    norms = {t.name: weight_of(t).abs().reshape(8, -1).sum(1) for t in match(model) if t.name != "2.weight"}
    prune(model, context, threshold={"0": 2.0, "4": 99.0}, granularity="filter")
    assert torch.equal(form_of(match(model)[0]).mask.flatten(1).any(1), norms["0.weight"] >= 2.0)
    assert int(form_of(match(model)[2]).mask.any(1).sum()) == 1
    assert "4.weight has no score of 99 or more; its highest-scored is kept" in context.notes
    assert "2.weight is left as it is, since no threshold is given for it" in context.notes


def test_iterative_and_gradual_filters(context):
    training = {"steps": 6, "lr": 0.01}
    for schedule in ({"schedule": "iterative", "steps": 2}, {"schedule": "gradual", "frequency": 1}):
        model = prune(net(), context, sparsity=0.75, granularity="filter", finetune=training, **schedule)
        assert int(form_of(match(model)[0]).mask.flatten(1).all(1).sum()) == 2


def test_two_of_four_by_brute_force(context):
    """Along input channels, in each group of four at each place of the kernel, by |w|."""
    model = net()
    before = {target.name: weight_of(target).clone() for target in match(model)}
    prune(model, context, granularity="n:m", finetune={"steps": 3, "lr": 0.01})
    rows = {  # [groups, 4]
        "0.weight": lambda w: w.permute(0, 2, 3, 1).reshape(-1, 4),
        "2.weight": lambda w: w.permute(1, 2, 3, 0).reshape(-1, 4),
        "4.weight": lambda w: w.reshape(-1, 4),
    }
    for target in match(model):
        assert isinstance(form_of(target), NM)
        values, mask = rows[target.name](before[target.name].abs()), rows[target.name](form_of(target).mask)
        for value, kept in zip(values, mask, strict=True):
            best = max(itertools.combinations(range(4), 2), key=lambda pair: float(value[list(pair)].sum()))
            assert kept.nonzero().flatten().tolist() == list(best)
        assert int((weight_of(target) != 0).sum()) == weight_of(target).numel() // 2


def test_nm_keeps_what_was_pruned_and_is_pruned_and_shared_further(context):
    model = prune(net(), context, sparsity=0.7)
    first = masks(model)
    first = {name: mask.clone() for name, mask in first.items()}
    prune(model, context, granularity="n:m", size=[1, 4])
    assert all(not bool((mask & ~first[name]).any()) for name, mask in masks(model).items())
    prune(model, context, sparsity=0.9)
    assert all(isinstance(form_of(target), NM) for target in match(model))
    second = {name: mask.clone() for name, mask in masks(model).items()}
    parse_stage({"method": "quantize.share", "bits": 2}).apply(model, context)
    for target in match(model):
        assert torch.equal(form_of(target).support, second[target.name])
        assert not bool(weight_of(target)[~second[target.name]].any())


def test_patterns_by_brute_force():
    """The most frequent arrangements of the four largest of nine, and for each kernel the best of them."""
    torch.manual_seed(0)
    scores = (torch.rand(40, 5) * 4).round()  # ties
    natural = [tuple(sorted(sorted(range(5), key=lambda i: (-row[i], i))[:2])) for row in scores.tolist()]
    counted = sorted(set(natural), key=lambda p: (-natural.count(p), p))[:3]
    found = dictionary([scores[:15], scores[15:]], 2, 3)
    assert [tuple(row.nonzero().flatten().tolist()) for row in found] == counted
    for row, mask in zip(scores.tolist(), nearest_pattern(scores, found), strict=True):
        best = max(counted, key=lambda p: (sum(row[i] for i in p), -counted.index(p)))
        assert tuple(mask.nonzero().flatten().tolist()) == best


def test_of_equally_frequent_patterns_the_one_with_earlier_places_comes_first():
    scores = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]])
    assert dictionary([scores], 2, 2).tolist() == [[True, False, False, True], [False, True, True, False]]


def test_kernels_of_the_same_size_share_a_dictionary(context):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 2))
    prune(model, context, granularity="pattern", entries=4, patterns=5)
    kernels = torch.cat([form_of(target).mask.flatten(2).flatten(0, 1) for target in match(model)[:2]])
    assert bool((kernels.sum(1) == 4).all()) and len(torch.unique(kernels, dim=0)) == 5
    assert bool(form_of(match(model)[2]).mask.all()), "all four of a 2 × 2 kernel"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"granularity": "n:m", "size": [3, 9]}, r"0\.weight has 4 inputs, no multiple of 9; leave it out"),
        ({"sparsity": 0.5, "granularity": "block"}, r"2\.weight is 4 × 16"),
        ({"sparsity": 0.5, "granularity": "vector", "size": 5}, r"0\.weight is 8 × 36 .* pieces of 1 × 5"),
        ({"sparsity": 0.5, "granularity": "kernel"}, r"4\.weight \(Linear\) has no kernels"),
        ({"granularity": "pattern", "ignore": ["4"], "entries": 5}, r"2\.weight has kernels of 4 entries, fewer than"),
    ],
)
def test_sizes_that_do_not_fit_are_told_before_anything_is_trained(context, options, sentence):
    if options["granularity"] == "block":
        options = {**options, "size": [3, 4]}
        sentence = r"0\.weight is 8 × 36 as a matrix, which cannot be cut into pieces of 3 × 4"
    with pytest.raises(RecipeError, match=sentence):
        check_order([parse_stage({"method": "prune.magnitude", **options})], net())


CRITERIA_OPTIONS = [
    {"criterion": "taylor"},
    {"criterion": "taylor_squared", "scoring": {"batch_size": 1}},
    {"criterion": "obd_hutchinson", "scoring": {"probes": 2}},
    {"criterion": "obs", "scoring": {"batch_size": 1, "block": 8, "compensate": True}},
    {"criterion": "mas", "granularity": "block", "size": [2, 2]},
    {"criterion": "lp", "scoring": {"p": 0.5}, "granularity": "kernel", "ignore": ["4"]},
    {"criterion": "apoz", "granularity": "filter"},
    {"criterion": "fpgm", "granularity": "filter", "scope": "global", "normalize": "mean"},
    {"criterion": "ewc", "schedule": "gradual", "frequency": 2, "finetune": {"steps": 6, "lr": 0.01}},
]


@pytest.mark.parametrize("options", CRITERIA_OPTIONS, ids=lambda options: options["criterion"])
def test_every_kind_of_criterion_prunes(context, options):
    model = prune(net(), context, sparsity=0.5, **options)
    shares = [float((weight_of(t) == 0).double().mean()) for t in match(model) if isinstance(form_of(t), Masked)]
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.2)


def test_compensation_lowers_the_loss_it_is_meant_to_lower(toy_context):
    """Squared error of a linear model is a quadratic, whose Fisher matrix from single examples is near a multiple of
    its Hessian when the noise is alike everywhere: kept weights come near the least-squares fit that is possible."""
    torch.manual_seed(0)
    x = torch.randn(4000, 8) @ torch.randn(8, 8)
    model = nn.Linear(8, 1, bias=False)
    y = model(x).detach() + 0.3 * torch.randn(4000, 1)
    context = toy_context((x,), y)
    losses = {}
    for compensate in (False, True):
        twin = nn.Sequential(nn.Linear(8, 1, bias=False))
        twin[0].weight.data = model.weight.data.clone()
        scoring = {"batch_size": 1, "batches": 1000, "compensate": compensate}
        prune(twin, context, sparsity=0.5, criterion="obs", scoring=scoring)
        losses[compensate] = float(context.loss(twin).detach())
        kept = (twin[0].weight != 0)[0]
        assert int(kept.sum()) == 4
    best = float((x[:, kept] @ torch.linalg.lstsq(x[:, kept], y).solution - y).square().mean())
    assert losses[True] - best < 0.1 * (losses[False] - best)
