"""Latency of files in runtimes, dense beside compressed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.flow.deployable import Deployable, deployable
from tersenet.flow.measuring import machine
from tersenet.runtime.bench import bench
from tersenet.runtime.export import export
from tersenet.runtime.extras import needed
from tersenet.runtime.memory import peak_bytes
from tersenet.runtime.plain import plain
from tersenet.runtime.session import RUNTIMES

ONNX = ("onnx", "onnxruntime", "onnxscript")
"""What the extra of that name installs."""

SLOWER = 1.02
"""From this ratio of medians on it is said that compression made a model slower: below it is noise."""


def usual() -> tuple[Sequence[str], list[str]]:
    """The runtimes that are measured unless told, and what is said of one that is not there."""
    try:
        for name in ONNX:
            needed(name, "onnx")
    except ModelError as error:
        return ["torch"], [f"ONNX Runtime was left out: {error}"]
    return ["torch", "onnx"], []


def bench_file(
    file: Path,
    runtimes: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    shapes: Sequence[str] = (),
    recipe: Path | None = None,
    dense: Path | None = None,
) -> dict[str, Any]:
    """{file, file_bytes, exported_bytes, rows, slower, notes, machine}: a row for each of dense and
    compressed, runtime, batch and number of threads. With runtime 'kernels' the dense network computes in torch.

    runtimes: None for torch, and onnx where it is installed.
    dense: the .terse file of the dense network; None: the same architecture with float weights, if `file` names it.
    Raises TersenetError where the file cannot be loaded, or a runtime is missing or cannot express the model.
    """
    runtimes, notes = (runtimes, []) if runtimes is not None else usual()
    if wrong := next((name for name in runtimes if name not in RUNTIMES), None):
        raise RecipeError(f"--runtime {wrong}: must be one of {', '.join(RUNTIMES)}")
    if min(*batches, *threads) < 1 or not seconds > 0:
        raise RecipeError("--batch, --threads and --seconds must be positive")
    found = deployable(file, shapes, recipe)
    beside = deployable(dense, shapes).model if dense is not None else found.dense
    models = {"compressed": found.model, **({"dense": beside.eval()} if beside is not None else {})}
    rows: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    if beside is None:
        notes.insert(0, f"{file} names no dense network to compare with; give the file of one, --dense")
    with tempfile.TemporaryDirectory() as folder:
        for runtime in runtimes:
            made = {
                name: _ready(name, model, found, runtime, file, recipe, Path(folder)) for name, model in models.items()
            }
            sizes |= {f"{name} {runtime}": one.bytes for name, one in made.items() if one.bytes is not None}
            notes += [note for one in made.values() for note in one.notes]
            sources = {name: one.source for name, one in made.items()}
            given = {batch: [one.numpy() for one in found.inputs(batch)] for batch in sorted(batches)}
            memory = {name: _memory(source, runtime, given, threads[0]) for name, source in sources.items()}
            for batch, inputs in given.items():
                for count in threads:
                    timed = bench(sources, runtime, inputs, count, seconds)
                    rows += [asdict(row) | {"memory": memory[row.model].get(batch)} for row in timed]
    return {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "exported_bytes": sizes,
        "rows": rows,
        "slower": _slower(rows),
        "notes": notes,
        "machine": machine(torch.device("cpu")),
    }


@dataclass(frozen=True)
class _Ready:
    """bytes: of the exported file, if there is one."""

    source: Path | nn.Module
    bytes: int | None = None
    notes: tuple[str, ...] = ()


def _ready(
    name: str, model: nn.Module, found: Deployable, runtime: str, file: Path, recipe: Path | None, folder: Path
) -> _Ready:
    """The dense or the compressed network as the runtime takes it."""
    if runtime == "kernels" and name == "compressed":
        from tersenet.flow.on_kernels import on_kernels  # loads a compiler

        on, notes = on_kernels(file, recipe)
        return _Ready(on, notes=notes)
    if runtime in ("torch", "kernels"):
        return _Ready(plain(model))
    path = folder / f"{name}{'.onnx' if runtime == 'onnx' else '.xml'}"
    exported = export(model, found.inputs(2), path, codes=found.codes if name == "compressed" else {})
    return _Ready(path, exported.bytes, exported.notes)


def _memory(
    source: Path | nn.Module, runtime: str, given: Mapping[int, list[np.ndarray]], threads: int
) -> dict[int, int]:
    """Bytes by size of the batch, where the source is a file."""
    found = peak_bytes(source, runtime, list(given.values()), threads) if isinstance(source, Path) else None
    return dict(zip(given, found or (), strict=False))


def _slower(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where compression made something slower, in words."""
    cases = {(row["runtime"], row["batch"], row["threads"], row["model"]): row["p50"] for row in rows}
    found = []
    for (runtime, batch, threads, name), ms in cases.items():
        dense = cases.get((runtime, batch, threads, "dense"))
        if name == "compressed" and dense is not None and ms > SLOWER * dense:
            case = f"{runtime}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
            found.append(f"compressed takes {ms / dense:.2f}× the time of dense in {case}")
    return found
