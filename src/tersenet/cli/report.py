"""`tersenet report DIR…`: one page over one or many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import Json, print_json

NAME = "report"


def command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="folders of runs", show_default=False)],
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("report.html"),
    json: Json = False,
) -> None:
    """One self-contained HTML page over one or many runs."""
    from tersenet.report import load_record, write_page

    records = [load_record(folder) for folder in folders]
    write_page(records, out)
    if json:
        print_json({"page": str(out), "runs": [record.model_dump(mode="json") for record in records]})
    else:
        print(out)
