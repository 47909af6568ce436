"""`tersenet reproduce TABLE`: run a table of the literature again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.memory import keep_freed
from tersenet.cli.options import Json, print_json

NAME = "reproduce"


def command(
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="which table; none: list them")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the data sets, as `mnist/` and so on")] = None,
    out: Annotated[Path, typer.Option(help="folder for runs and results")] = Path("runs/reproduce"),
    only: Annotated[str | None, typer.Option(help="only the rows whose name matches this shell pattern")] = None,
    json: Json = False,
) -> None:
    """Run a table of the literature again, published figures beside ours. Finished runs are not repeated."""
    from tersenet.cli.printing import print_comparison
    from tersenet.experiments import TABLES
    from tersenet.experiments.reproduce import reproduce
    from tersenet.flow.progress import Quiet, on_stderr

    if table is None:
        listed = {name: TABLES[name].title for name in TABLES}
        print_json(listed) if json else print("\n".join(f"{name}  {title}" for name, title in listed.items()))
        return
    keep_freed()
    progress = Quiet() if json else on_stderr()
    try:
        rows = reproduce(table, data, out, only, progress)
    finally:
        progress.close()
    if json:
        print_json({"table": table, "rows": rows})
    else:
        print_comparison(table, TABLES[table], rows)
