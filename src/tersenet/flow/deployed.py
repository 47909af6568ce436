"""A file's model in a runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tersenet.core.errors import ModelError
from tersenet.flow.deployable import deployable
from tersenet.runtime.export import export
from tersenet.runtime.session import RUNTIMES, Session


def deploy(
    file: str | Path,
    runtime: str = "torch",
    *,
    shapes: Sequence[str] = (),
    recipe: Path | None = None,
    threads: int = 0,
) -> Session:
    """The model of a .terse file as a function, `session(x)`, of numpy arrays or tensors.

    runtime 'kernels': layers compute with their weights as stored, and `session.notes` names those that do not.
    Raises ModelError where the runtime is not installed or cannot express the model; see `deployable` for the rest.
    """
    if runtime not in RUNTIMES:
        raise ModelError(f"there is no runtime '{runtime}'; there are {', '.join(RUNTIMES)}")
    if runtime == "kernels":
        from tersenet.flow.on_kernels import on_kernels  # loads a compiler

        model, notes = on_kernels(Path(file), recipe)
        return Session(model, runtime, threads=threads, notes=notes)
    found = deployable(Path(file), shapes, recipe)
    if runtime == "torch":
        return Session(found.model, runtime, threads=threads)
    suffix = ".onnx" if runtime == "onnx" else ".xml"
    with tempfile.TemporaryDirectory() as folder:
        made = export(found.model, found.inputs(2), Path(folder) / f"model{suffix}", codes=found.codes)
        return Session(made.path, runtime, threads=threads)
