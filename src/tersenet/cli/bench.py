"""`tersenet bench FILE…`: how fast, dense beside compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tersenet.cli.options import Json, print_json
from tersenet.core.errors import RecipeError

NAME = "bench"


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help=".terse files", show_default=False)],
    runtime: Annotated[
        str | None,
        typer.Option(
            help="torch, onnx, openvino, kernels; several with commas; by default torch, and onnx if it is installed",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="inputs in a call, as 1,64")] = "1,64",
    threads: Annotated[str, typer.Option(help="as 1,2")] = "1",
    seconds: Annotated[float, typer.Option(help="for each pair of dense and compressed")] = 2.0,
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="of one example, as 3x224x224, or 128:int64; once for each input"),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="builds the model of a file that cannot say how")] = None,
    dense: Annotated[Path | None, typer.Option(help="the dense network as a .terse file")] = None,
    html: Annotated[Path | None, typer.Option(help="a page to write, with bars")] = None,
    json: Json = False,
) -> None:
    """Time the compressed network beside the dense one it came from, call by call in turn, in each runtime.

    Dense is the same architecture with float weights, where the file names it, or what --dense holds. Weights are no
    matter to its time.
    """
    from tersenet.flow.benching import bench_file
    from tersenet.report.bench import write_bench

    batches, counts = _numbers("--batch", batch), _numbers("--threads", threads)
    kinds = None if runtime is None else runtime.split(",")
    found = [bench_file(file, kinds, batches, counts, seconds, input or (), recipe, dense) for file in files]
    if html:
        write_bench(found, html)
    if json:
        print_json(found)
        return
    for one in found:
        _print(one)
    if html:
        print(f"page: {html}")


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"{option} {text}: must be whole numbers with commas, as 1,64") from None


def _mib(memory: int | None) -> str:
    return "–" if memory is None else f"{memory / 2**20:,.1f}"


def _print(found: dict[str, Any]) -> None:
    print(f"{found['file']}  {found['file_bytes']:,} bytes")
    for name, size in found["exported_bytes"].items():
        print(f"  exported, {name}: {size:,} bytes")
    print("runtime   batch  threads  model        p50 ms    p90 ms    p99 ms  examples/s  load ms  memory MiB")
    for row in found["rows"]:
        print(
            f"{row['runtime']:9} {row['batch']:>5}  {row['threads']:>7}  {row['model']:10} {row['p50']:>8.3f}  "
            f"{row['p90']:>8.3f}  {row['p99']:>8.3f}  {row['throughput']:>10,.0f}  {row['load']:>7.0f}"
            f"  {_mib(row['memory']):>10}"
        )
    for note in found["notes"]:
        print(f"note: {note}")
    for sentence in found["slower"]:
        print(f"slower: {sentence}")
