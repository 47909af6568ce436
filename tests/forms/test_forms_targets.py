"""Which weights a pattern means."""

import pytest
import torch
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.forms import match, per_target, weights


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4, 6))
        self.scale = nn.Parameter(torch.ones(6))
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 3)
        self.attention = nn.MultiheadAttention(6, 2, add_bias_kv=True)
        self.register_buffer("table", torch.zeros(3, 3))
        self.empty = nn.Linear(0, 3)


def names(model, targets=(), ignore=()):
    return [target.name for target in match(model, targets, ignore)]


USUAL = [
    "features.0.weight",
    "features.2.weight",
    "fc1.weight",
    "fc2.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((), USUAL),
        (("fc1.weight",), ["fc1.weight"]),
        (("fc1",), ["fc1.weight"]),
        (("features.*",), USUAL[:2]),
        (("Conv2d",), USUAL[:2]),
        (("fc*",), ["fc1.weight", "fc2.weight"]),
        (("Linear",), ["fc1.weight", "fc2.weight", "attention.out_proj.weight"]),
        (("fc2", "fc1"), ["fc1.weight", "fc2.weight"]),
        (("position",), ["position"]),
        (("Own",), ["position"]),
        (("fc1.bias",), ["fc1.bias"]),
        (("scale",), ["scale"]),
        (
            ("*",),
            ["position", *USUAL[:4], "attention.in_proj_weight", "attention.bias_k", "attention.bias_v", USUAL[5]],
        ),
    ],
)
def test_patterns(targets, expected):
    assert names(Own(), targets) == expected


def test_ignore_takes_away():
    assert names(Own(), ignore=("Conv2d", "attention.*")) == ["fc1.weight", "fc2.weight"]
    assert names(Own(), ("fc*",), ("fc1",)) == ["fc2.weight"]


@pytest.mark.parametrize(
    ("targets", "ignore", "hint"),
    [
        (("fc3",), (), "did you mean 'fc"),
        (("Conv3d",), (), "did you mean 'Conv2d'"),
        (("features",), (), r"did you mean 'features\.\*'"),
        (("zzz",), (), "there are: position, features.0.weight"),
        ((), ("fcl",), "did you mean 'fc"),
        (("BatchNorm2d",), (), "matches no weight"),
        (("table",), (), "matches no weight"),
        (("empty",), (), "matches no weight"),
        (("Module",), (), "matches no weight"),
        (("*bias",), (), "matches no weight"),
        (("fc1",), ("Linear",), "also in 'ignore'"),
    ],
)
def test_what_matches_nothing_is_an_error(targets, ignore, hint):
    with pytest.raises(RecipeError, match=hint):
        match(Own(), targets, ignore)


def test_a_model_without_usual_layers():
    with pytest.raises(RecipeError, match="no layer of a usual kind"):
        match(nn.BatchNorm1d(3))


def test_the_message_stays_short_for_a_large_model():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    with pytest.raises(RecipeError, match="and 42 more"):
        match(model, ("qqqqqq",))


def test_a_subclass_answers_to_its_base_class_too():
    class Special(nn.Linear):
        pass

    assert names(nn.Sequential(Special(2, 3), nn.Conv1d(1, 1, 1)), ("Linear",)) == ["0.weight"]


def test_shared_parameters_are_one_target_that_answers_to_both_names():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    (target,) = match(model)
    assert (target.name, target.aliases, len(target.owners)) == ("0.weight", ("1.weight",), 2)
    for pattern in ("0", "1", "1.weight", "Linear", "Embedding"):
        assert names(model, (pattern,)) == ["0.weight"]


def test_a_module_used_twice_is_one_owner():
    layer = nn.Linear(3, 3)
    (target,) = match(nn.Sequential(layer, nn.ReLU(), layer))
    assert target.aliases == ("2.weight",) and target.owners == ((layer, "weight"),)


def test_a_weight_with_a_parametrization_of_the_users_own_is_an_error_unless_it_is_left_out():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    for targets in ((), ("Linear",), ("0.weight",), ("*",)):
        with pytest.raises((ModelError, RecipeError)):
            match(model, targets)
    with pytest.raises(ModelError, match=r"0\.weight already has a parametrization"):
        match(model)
    assert names(model, ("1",)) == ["1.weight"]
    assert names(model, (), ("0.weight",)) == ["1.weight"]


def test_a_lazy_model_is_an_error():
    with pytest.raises(ModelError, match="run the model on one batch"):
        match(nn.Sequential(nn.LazyLinear(3)))


def test_per_target():
    targets = match(Own(), ("fc*", "Conv2d"))
    assert set(per_target(0.5, targets).values()) == {0.5} and len(per_target(0.5, targets)) == 4
    given = per_target({"Conv2d": 8, "fc1": 5}, targets)
    assert given == {"features.0.weight": 8, "features.2.weight": 8, "fc1.weight": 5}
    with pytest.raises(RecipeError, match=r"fc1\.weight is given twice, by 'fc1' and 'Linear'"):
        per_target({"fc1": 1, "Linear": 2}, targets)
    with pytest.raises(RecipeError, match=r"'attention\.out_proj' matches no weight"):
        per_target({"attention.out_proj": 1}, targets)


def test_weights_lists_all_parameters_once():
    assert [t.name for t in weights(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
