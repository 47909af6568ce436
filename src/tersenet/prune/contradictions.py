"""Which options of `prune.magnitude` do not go together, and the sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersenet.prune import granularity
from tersenet.prune.criteria import CRITERIA, foreign_options

if TYPE_CHECKING:
    from tersenet.prune.magnitude import MagnitudePruning

Found = list[tuple[bool, str]]
"""(whether it is so, what is wrong); the first that is so is told."""


def contradictions(stage: MagnitudePruning) -> Found:
    given = stage.model_fields_set
    return [
        *granularity.contradictions(stage.kind, given),
        *(_of_fixed(stage) if stage.kind.fixed else _of_scopes(stage)),
        *_of_schedules(stage),
        *_of_splicing(stage),
        *_of_criteria(stage),
        (
            stage.granularity in ("element", "n:m", "pattern") and "reduce" in given,
            "'reduce' belongs to granularities of several entries: vector, kernel, block, filter, channel",
        ),
    ]


def _of_fixed(stage: MagnitudePruning) -> Found:
    asked = [name for name in ("sparsity", "quality", "threshold") if getattr(stage, name) is not None]
    name = stage.granularity
    return [
        (bool(asked), f"granularity '{name}' says itself how much is kept; leave out '{(asked or [''])[0]}'"),
        (stage.scope != "layer", f"granularity '{name}' chooses in each weight; leave out 'scope'"),
        (stage.schedule != "one_shot", f"granularity '{name}' goes with schedule 'one_shot'"),
    ]


def _of_scopes(stage: MagnitudePruning) -> Found:
    std, gradual, threshold = stage.scope == "std", stage.schedule == "gradual", stage.threshold is not None
    return [
        (std and stage.quality is None, "scope 'std' needs 'quality', the threshold in standard deviations"),
        (std and stage.sparsity is not None, "scope 'std' takes 'quality' in place of 'sparsity'"),
        (std and stage.criterion != "magnitude", "scope 'std' is a threshold on magnitude; leave out 'criterion'"),
        (std and stage.granularity != "element", "scope 'std' is a threshold on single weights, not on granules"),
        (std and gradual, "scope 'std' has no sparsity that a gradual schedule could grow to; use 'iterative'"),
        (threshold and stage.sparsity is not None, "'threshold' stands in place of 'sparsity'; keep one of them"),
        (threshold and stage.scope != "layer", "'threshold' is on scores, whatever the layer; leave out 'scope'"),
        (
            threshold and (gradual or stage.splice),
            "'threshold' has no sparsity that 'gradual' could grow to or 'splice' could hold; use 'iterative'",
        ),
        (not (std or threshold) and stage.sparsity is None, "'sparsity' is missing"),
        (not std and stage.quality is not None, "'quality' belongs to scope 'std'"),
        (
            stage.scope == "global" and isinstance(stage.sparsity, dict),
            "scope 'global' takes one sparsity for all weights together, not one for each layer",
        ),
        (
            stage.scope != "global" and stage.normalize is not None,
            "'normalize' belongs to scope 'global', where scores of different layers are compared",
        ),
    ]


def _of_schedules(stage: MagnitudePruning) -> Found:
    gradual, iterative = stage.schedule == "gradual", stage.schedule == "iterative"
    return [
        (iterative and stage.steps < 2, "schedule 'iterative' needs 'steps' of 2 or more"),
        (not iterative and stage.steps != 1, "'steps' belongs to schedule 'iterative'"),
        ((iterative or gradual) and stage.finetune is None, f"schedule '{stage.schedule}' needs 'finetune'"),
        (
            not (gradual or stage.splice) and bool(stage.model_fields_set & {"begin", "end", "frequency"}),
            "'begin', 'end' and 'frequency' belong to schedule 'gradual' and to 'splice'",
        ),
        ((gradual or stage.splice) and stage.begin >= stage.end, "'begin' must be less than 'end'"),
        (
            gradual and stage.rescale_dropout,
            "'rescale_dropout' goes with 'one_shot' or 'iterative', where connections do not change in training",
        ),
    ]


def _of_splicing(stage: MagnitudePruning) -> Found:
    return [
        (stage.splice and stage.finetune is None, "'splice' needs 'finetune', during which weights come back"),
        (
            stage.splice and stage.criterion not in ("magnitude", "square", "l1", "l2"),
            f"'splice' needs criterion 'magnitude' or 'square', not '{stage.criterion}'",
        ),
        (stage.splice and stage.granularity != "element", "'splice' brings back single weights, not granules"),
        (stage.splice and stage.normalize is not None, "'splice' compares plain scores; leave out 'normalize'"),
        (not stage.splice and "margin" in stage.model_fields_set, "'margin' belongs to 'splice'"),
    ]


def _of_criteria(stage: MagnitudePruning) -> Found:
    criterion = CRITERIA[stage.criterion]
    foreign = foreign_options(stage.criterion, stage.scoring)
    return [
        (
            criterion.per_filter and stage.granularity != "filter",
            f"criterion '{stage.criterion}' scores whole filters; it needs granularity 'filter'",
        ),
        (
            criterion.per_filter and "reduce" in stage.model_fields_set,
            f"criterion '{stage.criterion}' scores whole filters, so there is nothing to 'reduce'",
        ),
        (foreign is not None, foreign or ""),
        (
            stage.scoring.compensate and stage.schedule == "gradual",
            "scoring.compensate goes with schedule 'one_shot' or 'iterative', where no training runs meanwhile",
        ),
    ]
