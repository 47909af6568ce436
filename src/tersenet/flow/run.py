"""A recipe from start to end. Read this first: it is the whole story.

model + data ──► train ──► stage ──► stage ──► … ──► write .terse ──► read .terse ──► measure ──► Record
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tersenet import artifact
from tersenet.core.copying import copied
from tersenet.core.recipe import Recipe
from tersenet.core.record import Record
from tersenet.data import Splits, check_fits
from tersenet.flow.context import Context, fabric_for
from tersenet.flow.files import RunFolder
from tersenet.flow.gate import check_gate
from tersenet.flow.load import load
from tersenet.flow.measuring import record_of, stage_row
from tersenet.flow.objective import check_objective, loss_of
from tersenet.flow.origin import first_key, from_zoo
from tersenet.flow.pack import contents_of
from tersenet.flow.progress import Progress, Quiet
from tersenet.flow.promises import check_kept, promises
from tersenet.flow.teachers import check_teachers, taught_by
from tersenet.forms import check_order
from tersenet.train.checkpoint import CheckpointStore


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the model read back from the file, the file, its figures, and the folder of it all."""

    model: nn.Module
    file: Path
    record: Record
    folder: Path


def run(
    recipe: Recipe,
    model: nn.Module,
    splits: Splits,
    folder: Path,
    *,
    resume: bool = False,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Compress `model` as `recipe` says and leave file, record and checkpoints in `folder`.

    checkpoints: where to keep them instead; recipes that begin alike and share this folder train their beginning once.

    Raises RecipeError or DataError before anything is trained if recipe, model and data do not fit together, and
    GateError after everything is written if the result is worse than the recipe's gate allows.
    """
    check_order(recipe.stages, model)
    check_fits(model, splits)
    check_objective(recipe, model, splits)
    check_teachers(recipe, model, splits)
    fabric = fabric_for(recipe.runtime)
    with RunFolder(folder, recipe, resume, fabric.is_global_zero) as place:
        fabric.barrier()  # the first process may have cleared old checkpoints
        store = CheckpointStore(checkpoints or place.checkpoints)
        key = first_key(recipe, model, splits)
        context = Context(splits, fabric, recipe.seed, store, key, loss_of(recipe), progress or Quiet())

        model = model.to(fabric.device)
        context.enter("train", recipe.train.to_dict() if recipe.train else None)
        if recipe.train:
            context.finetune(model, recipe.train)
        dense = copied(model)
        rows = [stage_row("dense", model, recipe, context)]
        for number, stage in enumerate(recipe.stages, start=1):
            context.enter(f"{number} {stage.method}", stage.to_dict())
            context.known = {"dense": dense} | taught_by(stage, model)
            before = promises(model)
            model = stage.apply(model, context)
            check_kept(before, model, stage.method)
            rows.append(stage_row(stage.method, model, recipe, context))
            if rows[-1].file_bytes > rows[-2].file_bytes:
                context.note(f"the file grew from {rows[-2].file_bytes:,} to {rows[-1].file_bytes:,} bytes")

        context.enter("measure", None)
        if fabric.is_global_zero:
            artifact.write(place.file, contents_of(model, recipe, splits, context.note), recipe.code.coder)
        fabric.barrier()
        back = load(place.file, None if from_zoo(recipe) else copied(dense)).to(fabric.device)
        record = record_of(recipe, dense, back, context, rows, place.file)
        if fabric.is_global_zero:
            place.save(record)
    check_gate(recipe.gate, record)
    return Outcome(back, place.file, record, folder)
