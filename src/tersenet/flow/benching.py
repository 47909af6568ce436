"""Latency of files in runtimes, dense beside compressed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.flow.deployable import deployable
from tersenet.runtime.bench import bench, peak_bytes
from tersenet.runtime.export import export
from tersenet.runtime.plain import plain
from tersenet.runtime.session import RUNTIMES

SLOWER = 1.02
"""From this ratio of medians on it is said that compression made a model slower: below it is noise."""


def bench_file(
    file: Path,
    runtimes: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    shapes: Sequence[str] = (),
    recipe: Path | None = None,
) -> dict[str, Any]:
    """{file, file_bytes, sizes, rows, slower, peak_bytes}: a row for each of dense and compressed, runtime, batch and
    number of threads.

    Raises TersenetError where the file cannot be loaded, or a runtime is missing or cannot express the model.
    """
    if wrong := next((name for name in runtimes if name not in RUNTIMES), None):
        raise RecipeError(f"--runtime {wrong}: must be one of {', '.join(RUNTIMES)}")
    if min(*batches, *threads) < 1 or not seconds > 0:
        raise RecipeError("--batch, --threads and --seconds must be positive")
    found = deployable(file, shapes, recipe)
    models = {"compressed": found.model, **({"dense": found.dense.eval()} if found.dense is not None else {})}
    rows, sizes = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for runtime in runtimes:
            sources: dict[str, Path | nn.Module] = {}
            for name, model in models.items():
                if runtime == "torch":
                    sources[name] = plain(model)
                    continue
                path = Path(folder) / f"{name}{'.onnx' if runtime == 'onnx' else '.xml'}"
                codes = found.codes if name == "compressed" else {}
                sizes[f"{name} {runtime}"] = export(model, found.inputs(2), path, codes=codes).bytes
                sources[name] = path
            for batch in batches:
                inputs = [one.numpy() for one in found.inputs(batch)]
                for count in threads:
                    rows += [asdict(row) for row in bench(sources, runtime, inputs, count, seconds)]
    return {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "exported_bytes": sizes,
        "rows": rows,
        "slower": _slower(rows),
        "peak_bytes": peak_bytes(),
    }


def _slower(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where compression made something slower, in words."""
    cases = {(row["runtime"], row["batch"], row["threads"], row["model"]): row["p50"] for row in rows}
    found = []
    for (runtime, batch, threads, name), ms in cases.items():
        dense = cases.get((runtime, batch, threads, "dense"))
        if name == "compressed" and dense is not None and ms > SLOWER * dense:
            found.append(
                f"compressed is {ms / dense:.2f}× as slow as dense in {runtime}, batch {batch}, {threads} threads"
            )
    return found
