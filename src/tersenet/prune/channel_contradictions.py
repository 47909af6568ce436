"""Which options of `prune.channels` do not go together, and the sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersenet.prune.criteria import CRITERIA, foreign_options

if TYPE_CHECKING:
    from tersenet.prune.channels import ChannelPruning

AMOUNTS = ("ratio", "keep", "threshold", "budget")


def contradictions(stage: ChannelPruning) -> list[tuple[bool, str]]:
    """(whether it is so, what is wrong); the first that is so is told."""
    given = [name for name in AMOUNTS if getattr(stage, name) is not None]
    together, iterative, greedy = stage.scope == "global", stage.schedule == "iterative", stage.selection == "greedy"
    per_filter = CRITERIA[stage.criterion].per_filter
    foreign = foreign_options(stage.criterion, stage.scoring)
    return [
        (not given, "one of 'ratio', 'keep', 'threshold' and 'budget' must say how much goes"),
        (len(given) > 1, f"'{given[0] if given else ''}' and '{given[-1] if given else ''}' both say how much goes"),
        (
            together and (stage.keep is not None or isinstance(stage.ratio, dict)),
            "scope 'global' takes one ratio or budget for all groups together, not a number for each",
        ),
        (together and stage.threshold is not None, "'threshold' is on scores, whatever the group; leave out 'scope'"),
        (
            stage.normalize is not None and not together,
            "'normalize' belongs to scope 'global', where scores of different groups are compared",
        ),
        (iterative and stage.steps < 2, "schedule 'iterative' needs 'steps' of 2 or more"),
        (not iterative and stage.steps != 1, "'steps' belongs to schedule 'iterative'"),
        (iterative and stage.finetune is None, "schedule 'iterative' needs 'finetune'"),
        (
            greedy and together,
            "selection 'greedy' goes from layer to layer, not with scope 'global'",
        ),
        (greedy and stage.threshold is not None, "selection 'greedy' needs 'ratio', 'keep' or 'budget'"),
        (greedy and per_filter, f"selection 'greedy' leaves out inputs, but '{stage.criterion}' scores whole filters"),
        (foreign is not None, foreign or ""),
        (stage.scoring.compensate, "scoring.compensate is for single weights; for channels there is prune.reconstruct"),
    ]
