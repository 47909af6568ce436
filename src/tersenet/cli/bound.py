"""`tersenet bound FILE`: how far the file is from what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import FilePath, Json, Set, print_json
from tersenet.core.errors import RecipeError

NAME = "bound"


def command(
    file: FilePath,
    dense: Annotated[
        Path | None,
        typer.Option(help="weights it was made from: a state dict, or a run's folder; default: FILE's folder"),
    ] = None,
    data: Annotated[bool, typer.Option("--data", help="measure on the training data as well")] = False,
    recipe: Annotated[Path | None, typer.Option(help="take model and data from this recipe, not from the file")] = None,
    set: Set = None,
    delta: Annotated[float, typer.Option(help="how often the certificate may fail")] = 0.05,
    examples: Annotated[int, typer.Option(help="training examples for the Fisher information")] = 512,
    prequential: Annotated[
        bool, typer.Option("--prequential", help="with --data: train anew on growing parts of it, to code the rest")
    ] = False,
    json: Json = False,
) -> None:
    """How far a file is from what is possible, and what each bound assumes.

    From the file alone: bytes of each tensor's symbols against the ideal. With dense weights: the rate-distortion bound
    at the error the file has, and what the best code could still save. With --data: errors weighted by Fisher
    information, predicted against measured loss, a PAC-Bayes certificate, and the description length of the labels.
    With --prequential: the labels by the code that sends no network, in about the time of one training.
    """
    from tersenet.flow.bounding import bound_file
    from tersenet.flow.progress import on_stderr
    from tersenet.report.bounds import bounds_as_json, print_bounds

    if not 0 < delta < 1:
        raise RecipeError(f"--delta {delta:g}: must be a probability between 0 and 1, as 0.05")
    if examples < 1:
        raise RecipeError(f"--examples {examples}: must be at least 1")
    if (recipe or set) and not data:
        raise RecipeError(f"{'--recipe' if recipe else '--set'}: says where the data is, which --data asks for")
    if prequential and not data:
        raise RecipeError("--prequential: trains on the training data, which --data asks for")
    progress = on_stderr() if prequential else None
    try:
        found = bound_file(
            file,
            dense=dense,
            data=data,
            recipe=recipe,
            overrides=set or (),
            delta=delta,
            examples=examples,
            prequential=prequential,
            progress=progress,
        )
    finally:
        if progress is not None:
            progress.close()
    if json:
        print_json(bounds_as_json(found))
    else:
        print_bounds(found)
