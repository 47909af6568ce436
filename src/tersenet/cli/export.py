"""`tersenet export FILE OUT`: a file for another tool."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.options import FilePath, Json, print_json

NAME = "export"


def command(
    file: FilePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="its ending is the format: .onnx .xml .pt2 .safetensors")],
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="of one example, as 3x224x224, or 128:int64; once for each input"),
    ] = None,
    opset: Annotated[int, typer.Option(help="version of ONNX's operators, 21 to 23")] = 21,
    dtype: Annotated[str, typer.Option(help="of stored floats: float32, float16, bfloat16")] = "float32",
    recipe: Annotated[Path | None, typer.Option(help="builds the model of a file that cannot say how")] = None,
    json: Json = False,
) -> None:
    """Write the model for ONNX Runtime, OpenVINO (.xml) or PyTorch, run it there, and compare the outputs.

    Weights of at most 8 bits leave as integers with their steps, and layers whose inputs the file rounds as what
    runtimes compute in integers; batch norms are multiplied into the layers before them.
    """
    from tersenet.flow.deployable import deployable
    from tersenet.runtime.export import export

    found = deployable(file, input or (), recipe)
    inputs = () if out.suffix == ".safetensors" else found.inputs(2)  # nothing runs weights alone
    made = export(found.model, inputs, out, codes=found.codes, opset=opset, dtype=dtype)  # type: ignore[arg-type]
    if json:
        print_json({**asdict(made), "path": str(made.path)})
        return
    print(f"{out}  {made.bytes:,} bytes")
    if made.runtime is not None:
        print(f"outputs in {made.runtime} differ from PyTorch's by {made.difference:.1e} of their size")
    for note in made.notes:
        print(f"note: {note}")
