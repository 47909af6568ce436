"""`tersenet sensitivity RECIPE`: how much each layer can lose."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.memory import keep_freed
from tersenet.cli.options import Json, RecipePath, Set, print_json
from tersenet.core.errors import RecipeError

NAME = "sensitivity"


class Granularity(StrEnum):
    ELEMENT = "element"
    FILTER = "filter"


def command(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option(help="folder to write; default: runs/RECIPE-HASH")] = None,
    ratios: Annotated[str, typer.Option(help="shares to prune")] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    threshold: Annotated[float, typer.Option(help="accuracy that may be lost, as a share")] = 0.01,
    granularity: Annotated[Granularity, typer.Option(help="what becomes zero")] = Granularity.ELEMENT,
    targets: Annotated[
        list[str] | None, typer.Option(help="layers, as in a stage; may be given many times; default: all")
    ] = None,
    set: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="keep what was measured before in the folder")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    json: Json = False,
) -> None:
    """Prune one layer at a time and measure the error, without fine-tuning: table, plot, and ratios for a recipe.

    The model is trained as `compress` would train it, or taken from its checkpoints in the folder.
    """
    from tersenet.core.load import blaming, load_recipe
    from tersenet.flow.prepare import prepare, register_methods, run_folder
    from tersenet.flow.progress import Quiet, first_process, on_stderr
    from tersenet.report.sensitivity import block, print_sensitivity, write_sensitivity
    from tersenet.search import scan

    shares = _shares(ratios)
    if not 0 <= threshold <= 1:
        raise RecipeError(f"--threshold {threshold:g}: is no share of accuracy; give one from 0 to 1, as 0.01")
    keep_freed()
    register_methods()
    plain = load_recipe(recipe, set or ())
    folder = out or run_folder(plain.digest(), recipe.stem)
    model, splits = prepare(plain)
    progress = Quiet() if quiet else on_stderr()
    try:
        with blaming(recipe):
            found = scan(
                *(plain, model, splits, folder),
                ratios=shares,
                targets=targets or (),
                granularity=granularity.value,
                resume=resume,
                progress=progress,
            )
    finally:
        progress.close()
    if not first_process():
        return
    paths = write_sensitivity(found, threshold, folder)
    if json:
        chosen = {"threshold": threshold, "sparsity": found.ratios_within(threshold), "block": block(found, threshold)}
        print_json({**found.model_dump(mode="json"), **chosen, "paths": paths})
        return
    print_sensitivity(found, threshold)
    print(f"\npage: {paths['html']}")


def _shares(text: str) -> list[float]:
    """'0,0.1' → [0.0, 0.1]."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [math.nan]
    wrong = next((share for share in shares if not 0 <= share < 1), None)
    if wrong is not None:
        raise RecipeError(f"--ratios {text}: must be numbers from 0 to less than 1 with commas between, as 0,0.25,0.5")
    return shares
