"""`tersenet profile MODEL-OR-FILE`: what each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import Json, Set, print_json

NAME = "profile"


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL-OR-FILE", help="a model's name, a recipe (.yaml), a .terse file", show_default=False
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="of one example, as 3x224x224, or 128:int64; once for each input"),
    ] = None,
    batch: Annotated[int, typer.Option(help="inputs in one pass")] = 1,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="a column of the table: macs, energy, …")] = "order",
    top: Annotated[int | None, typer.Option(help="show so many layers only")] = None,
    sram: Annotated[int, typer.Option(metavar="BYTES", help="memory on chip, for the energy estimate")] = 0,
    integer: Annotated[
        bool,
        typer.Option(
            "--integer-activations",
            help="integer arithmetic for whole-number weights of a file also where it rounds no inputs",
        ),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="a page to write, with the roofline")] = None,
    recipe: Annotated[Path | None, typer.Option(help="builds the model of a file that cannot say how")] = None,
    set: Set = None,
    json: Json = False,
) -> None:
    """What each layer costs: multiplications, memory, energy (an estimate), time, and what it is bound by here.

    Of a file: dense beside compressed. Columns for --sort: order, layer, kind, macs, nonzero, parameters, bytes,
    outputs, live, traffic, energy, intensity, bound, least, measured; of a file also dense_macs, dense_bytes,
    dense_energy.
    """
    from tersenet.flow.profiling import profile_target
    from tersenet.report.layers import arranged
    from tersenet.report.profile import as_json, print_profile, write_profile

    found = profile_target(
        target,
        shapes=input or (),
        batch=batch,
        sram=sram,
        integer=integer,
        recipe=recipe,
        overrides=set or (),
    )
    arranged(found, sort, top)  # a wrong column is told before anything is written
    if html:
        write_profile(found, html, sort)
    if json:
        print_json(as_json(found, sort, top))
        return
    print_profile(found, sort, top)
    if html:
        print(f"page: {html}")
