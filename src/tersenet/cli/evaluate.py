"""`tersenet evaluate FILE`: read the file and measure what it holds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli.memory import keep_freed
from tersenet.cli.options import FilePath, Json, Set, print_json

NAME = "evaluate"


class Split(StrEnum):
    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"


def command(
    file: FilePath,
    recipe: Annotated[Path | None, typer.Option(help="take model and data from this recipe, not from the file")] = None,
    set: Set = None,
    split: Annotated[Split, typer.Option(help="which part of the data")] = Split.TEST,
    runtime: Annotated[
        str | None,
        typer.Option(help="compute in torch, onnx, openvino or kernels, as exported to it", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Read the file back and measure its accuracy. Data that lay in a local folder is named with --set data.path=…"""
    from tersenet.flow.evaluating import evaluate_file

    keep_freed()
    scores = evaluate_file(file, recipe, set or (), split.value, runtime)
    if json:
        print_json(scores)
        return
    where = f" in {runtime}" if runtime else ""
    print(f"{file} on {scores['data']} ({split.value}, {scores['examples']:,} examples){where}")
    print(f"  loss  {scores['loss']:.4f}")
    if scores["error"] is not None:
        print(f"  error {100 * scores['error']:.2f} %")
    if not scores["same_data_as_trained_on"]:
        print("  (not the data that the file was made with: its digest differs)")
