"""`tersenet pack IN OUT`: a state dict as a .terse file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import Json, print_json
from tersenet.core.errors import RecipeError

NAME = "pack"


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help=".safetensors, a folder or index of them, or a state dict (.pt)", show_default=False
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="a .terse file to write", show_default=False)],
    bits: Annotated[int | None, typer.Option(help="2 to 8: round weights, with a step for each channel")] = None,
    rmse: Annotated[float | None, typer.Option(help="round each weight to this relative error, as 0.01")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="weigh errors by this file: importances, named like the tensors (docs/PACK.md)")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="keep every bit (the default)")] = False,
    threads: Annotated[int, typer.Option(help="0: as many as there are cores")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on where an interrupted run ended")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace OUT also if it is no .terse file")] = False,
    json: Json = False,
) -> None:
    """A state dict of any size as a .terse file, tensor by tensor, without a model or data.

    Tensors with fewer than two dimensions, and integers, always stay as they are.
    """
    from tersenet.flow.meter import on_stderr
    from tersenet.flow.packing import pack
    from tersenet.flow.tensor_coding import Precision

    if lossless and (bits is not None or rmse is not None):
        raise RecipeError(f"--lossless and --{'bits' if bits is not None else 'rmse'}: only one can be meant")
    precision = Precision(bits, rmse)
    found = pack(
        source,
        target,
        precision,
        calibration=calibration,
        threads=threads,
        resume=resume,
        force=force,
        meter=on_stderr(f"pack {source.name}"),
    )
    if json:
        print_json(asdict(found) | {"saved": found.saved})
        return
    kept = f"{found.quantized} rounded, " if found.quantized else ""
    print(f"{found.file}: {found.tensors} tensors, {kept}{found.bytes:,} of {found.input_bytes:,} bytes")
    print(f"saved {100 * found.saved:.1f} %, {found.input_bytes / found.bytes:.2f}×, in {found.seconds:.1f} s")
