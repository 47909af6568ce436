"""`tersenet methods [NAME]`: what can be a stage."""

from __future__ import annotations

from typing import Annotated

import typer

from tersenet.cli.options import Json, print_json

NAME = "methods"


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method, with all its options")] = None,
    json: Json = False,
) -> None:
    """What can be a stage, with options, defaults and source."""
    from tersenet.cli.printing import print_methods
    from tersenet.flow.methods import describe_methods

    described = describe_methods(name)
    if json:
        print_json({"methods": described})
    else:
        print_methods(described, detailed=name is not None)
