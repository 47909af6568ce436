"""Options of criteria and granularities that contradict each other."""

import pytest

import tersenet.prune  # noqa: F401
from tersenet.core.errors import RecipeError
from tersenet.core.stage import parse_stage


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"granularity": "n:m", "sparsity": 0.5}, "says itself how much is kept; leave out 'sparsity'"),
        ({"granularity": "n:m", "scope": "global"}, "leave out 'scope'"),
        ({"granularity": "n:m", "size": [4, 4]}, "needs n < m"),
        ({"granularity": "n:m", "size": [2, 32]}, "needs n < m"),
        ({"granularity": "n:m", "size": 4}, "two for 'block'"),
        ({"granularity": "pattern", "schedule": "iterative", "steps": 2, "finetune": {"steps": 1}}, "'one_shot'"),
        ({"granularity": "filter"}, "'sparsity' is missing"),
        ({"granularity": "filter", "sparsity": 0.5, "size": 4}, "'size' belongs to"),
        ({"granularity": "filter", "sparsity": 0.5, "entries": 4}, "'entries' and 'patterns' belong to"),
        ({"granularity": "filters", "sparsity": 0.5}, "granularity: input should be"),
        ({"granularity": "block", "sparsity": 0.5, "size": [0, 4]}, "whole numbers of 1 or more"),
        ({"sparsity": 0.5, "reduce": "l2"}, "'reduce' belongs to granularities"),
        ({"sparsity": 0.5, "criterion": "fpgm"}, "needs granularity 'filter'"),
        ({"sparsity": 0.5, "criterion": "apoz", "granularity": "filter", "reduce": "l2"}, "nothing to 'reduce'"),
        ({"sparsity": 0.5, "scoring": {"p": 3}}, "scoring.p belongs to criterion lp"),
        ({"sparsity": 0.5, "criterion": "taylor", "scoring": {"probes": 3}}, "belongs to criterion obd_hutchinson"),
        ({"sparsity": 0.5, "criterion": "taylor", "scoring": {"batch": 3}}, "unknown key 'batch'; did you mean"),
        ({"sparsity": 0.5, "normalize": "mean"}, "'normalize' belongs to scope 'global'"),
        ({"sparsity": 0.5, "threshold": 0.1}, "in place of 'sparsity'"),
        ({"threshold": 0.1, "scope": "global"}, "leave out 'scope'"),
        ({"threshold": 0.1, "schedule": "gradual", "finetune": {"steps": 1}}, "use 'iterative'"),
        ({"scope": "std", "quality": 1, "granularity": "filter"}, "on single weights"),
        ({"sparsity": 0.5, "granularity": "filter", "splice": True, "finetune": {"steps": 1}}, "single weights, not"),
    ],
)
def test_contradictory_options(options, sentence):
    with pytest.raises(RecipeError, match=sentence) as caught:
        parse_stage({"method": "prune.magnitude", **options}, ("stages", 0))
    assert "\n" not in str(caught.value)
