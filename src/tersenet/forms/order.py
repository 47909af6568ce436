"""Whether the stages of a recipe can follow one another on this model; asked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tersenet.core.config import spell
from tersenet.core.errors import RecipeError
from tersenet.core.stage import Phase, Stage
from tersenet.forms.attach import form_of
from tersenet.forms.targets import check_patterns, match, weights


def check_order(stages: Sequence[Stage], model: nn.Module) -> None:
    """Raises RecipeError, with the path to the stage, if

    - a target, an ignored name or a per-layer option matches nothing, or an option gives one weight two values;
    - the options do not fit the model in another way that the stage knows (`Stage.check`);
    - a stage comes after one that settles more on the same weight (pruning after weight sharing).
    """
    settled = {t.name: (form.phase, form.name) for t in weights(model) if (form := form_of(t)) is not None}
    given = set(settled)
    for index, stage in enumerate(stages):
        path = ("stages", index)
        try:
            targets = match(model, stage.targets, stage.ignore)
            check_patterns(tuple(stage.options_for()), targets)
            stage.check(model)
            for target in targets if stage.settles() else ():
                _in_order(target.name, stage, *settled.get(target.name, (Phase.SHAPE, "")), target.name in given)
                settled[target.name] = (stage.settles(), stage.method)
                given.discard(target.name)
        except RecipeError as error:
            raise RecipeError(f"{spell(path)}: {error}", path) from None


def _in_order(name: str, stage: Stage, phase: Phase, method: str, given: bool) -> None:
    if stage.settles() < phase and given:
        raise RecipeError(
            f"{stage.method} cannot be applied to {name}: the model given is already compressed ({method}); give a "
            "fresh one, or what tersenet.load reads from the file"
        )
    if stage.settles() < phase:
        raise RecipeError(
            f"{stage.method} cannot follow {method} on {name}, because what {method} settles would be lost; swap them"
        )
