"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe, as YAML", show_default=False)]
FilePath = Annotated[Path, typer.Argument(metavar="FILE", help="a .terse file", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else to stdout")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="override a value of the recipe; may be given many times"),
]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
