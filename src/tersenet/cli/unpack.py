"""`tersenet unpack IN OUT`: the tensors of a .terse file as safetensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import Json, print_json

NAME = "unpack"


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a .terse file", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="a .safetensors file to write", show_default=False)],
    threads: Annotated[int, typer.Option(help="0: as many as there are cores")] = 0,
    force: Annotated[bool, typer.Option("--force", help="replace OUT also if it is no safetensors file")] = False,
    json: Json = False,
) -> None:
    """The tensors of a .terse file as a safetensors file, decoded one at a time."""
    from tersenet.flow.meter import on_stderr
    from tersenet.flow.packing import unpack

    found = unpack(source, target, threads=threads, force=force, meter=on_stderr(f"unpack {source.name}"))
    if json:
        print_json(asdict(found))
    else:
        print(f"{found.file}: {found.tensors} tensors, {found.bytes:,} bytes, in {found.seconds:.1f} s")
