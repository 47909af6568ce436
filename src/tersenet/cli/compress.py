"""`tersenet compress RECIPE`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.memory import keep_freed
from tersenet.cli.options import Json, RecipePath, Set, print_json

NAME = "compress"


def command(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option(help="folder to write; default: runs/RECIPE-HASH")] = None,
    set: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in the folder")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    json: Json = False,
) -> None:
    """Train, compress, write one file, read it back, measure it and write a page about it."""
    from tersenet.core.errors import GateError
    from tersenet.core.load import blaming, load_recipe
    from tersenet.flow.prepare import prepare, register_methods, run_folder
    from tersenet.flow.progress import Quiet, first_process, on_stderr
    from tersenet.flow.run import run
    from tersenet.report import load_record, print_summary, write_page

    keep_freed()
    register_methods()
    plain = load_recipe(recipe, set or ())
    folder = out or run_folder(plain.digest(), recipe.stem)
    model, splits = prepare(plain)
    progress = Quiet() if quiet else on_stderr()
    failed: GateError | None = None
    try:
        with blaming(recipe):
            run(plain, model, splits, folder, resume=resume, progress=progress)
    except GateError as error:
        failed = error
    finally:
        progress.close()
    if not first_process():
        return
    record = load_record(folder)
    write_page([record], folder / "report.html")
    if json:
        paths = {"file": str(folder / record.file), "page": str(folder / "report.html"), "gate": str(failed or "")}
        print_json({**record.model_dump(mode="json"), "paths": paths})
    else:
        print_summary(record, folder)
    if failed:
        raise failed
