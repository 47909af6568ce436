"""Options that contradict each other are told when the recipe is read, in one sentence with the place."""

import pytest

import tersenet.prune  # noqa: F401
from tersenet.core.errors import RecipeError
from tersenet.core.stage import parse_stage

TRAINING = {"steps": 8, "lr": 0.02}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "'sparsity' is missing"),
        ({"sparsity": 1.0}, "sparsity: must be a number greater than 0 and less than 1, not 1.0"),
        ({"sparsity": -0.1}, "not -0.1"),
        ({"sparsity": float("nan")}, "not nan"),
        ({"sparsity": "much"}, "not 'much'"),
        ({"sparsity": True}, "not True"),
        ({"sparsity": {"fc1": 1.5}}, "sparsity: for 'fc1' it must be a number .* not 1.5"),
        ({"sparsity": {}}, "no layer at all"),
        ({"sparsity": {3: 0.5}}, "must be text, not 3"),
        (
            {"sparsity": 0.5, "criterion": "magnitud"},
            "criterion: unknown criterion .*did you mean 'magnitude'",
        ),
        ({"sparsity": 0.5, "scope": "all"}, "scope: input should be 'layer', 'global' or 'std'"),
        ({"sparsity": 0.5, "sparsty": 0.5}, "unknown key 'sparsty'; did you mean 'sparsity'"),
        ({"scope": "std"}, "scope 'std' needs 'quality'"),
        ({"scope": "std", "quality": 1, "sparsity": 0.5}, "in place of 'sparsity'"),
        ({"scope": "std", "quality": 0}, "quality: must be a number greater than 0, not 0"),
        ({"scope": "std", "quality": 1, "criterion": "random"}, "threshold on magnitude"),
        ({"scope": "std", "quality": 1, "schedule": "gradual", "finetune": TRAINING}, "use 'iterative'"),
        ({"sparsity": 0.5, "quality": 1}, "'quality' belongs to scope 'std'"),
        ({"sparsity": {"0": 0.5}, "scope": "global"}, "one sparsity for all"),
        ({"sparsity": 0.5, "schedule": "iterative", "finetune": TRAINING}, "needs 'steps'"),
        ({"sparsity": 0.5, "schedule": "iterative", "steps": 2}, "'iterative' needs 'finetune'"),
        ({"sparsity": 0.5, "steps": 2}, "'steps' belongs to"),
        ({"sparsity": 0.5, "schedule": "gradual"}, "'gradual' needs 'finetune'"),
        ({"sparsity": 0.5, "splice": True}, "'splice' needs 'finetune'"),
        ({"sparsity": 0.5, "splice": True, "finetune": TRAINING, "criterion": "random"}, "needs criterion"),
        ({"sparsity": 0.5, "frequency": 3}, "'frequency' belong to"),
        ({"sparsity": 0.5, "margin": 0.3}, "'margin' belongs to 'splice'"),
        ({"sparsity": 0.5, "schedule": "gradual", "begin": 0.9, "finetune": TRAINING}, "less than 'end'"),
        ({"sparsity": 0.5, "schedule": "gradual", "rescale_dropout": True, "finetune": TRAINING}, "rescale_dropout"),
        ({"sparsity": 0.5, "finetune": {"step": 3}}, r"finetune: unknown key|finetune.step"),
    ],
)
def test_contradictions_are_told_when_the_recipe_is_read(options, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        parse_stage({"method": "prune.magnitude", **options}, ("stages", 0))
    assert str(caught.value).startswith("stages[0]") and "\n" not in str(caught.value)
