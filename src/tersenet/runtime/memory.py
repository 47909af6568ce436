"""How much memory a runtime takes for a model, seen in a process of its own that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tersenet.core.errors import ModelError
from tersenet.runtime.extras import needed
from tersenet.runtime.session import Session

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells a process of its memory, and where it is asked to forget the most that it was."""


def peak_bytes(path: Path, runtime: str, batches: Sequence[Sequence[np.ndarray]], threads: int = 1) -> list[int] | None:
    """The most memory that it takes to load `path` and compute with inputs: for each of `batches`, which should grow,
    what was taken by then, above what the process had with its libraries loaded. None where the system does not
    tell it.

    Raises ModelError where the runtime cannot compute with the file.
    """
    if not RESET.exists():
        return None
    inputs = [[(list(array.shape), array.dtype.name) for array in batch] for batch in batches]
    code = "import sys; from tersenet.runtime.memory import report; report(*sys.argv[1:])"
    given = [sys.executable, "-c", code, str(path), runtime, json.dumps(inputs), str(threads)]
    done = subprocess.run(given, capture_output=True, text=True)
    if done.returncode:
        raise ModelError(f"{path}: {runtime} cannot be watched: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    found: list[int] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def report(path: str, runtime: str, inputs: str, threads: str) -> None:
    """In the process that is watched: prints the bytes for each batch, or null, as JSON."""
    needed({"onnx": "onnxruntime"}.get(runtime, runtime), runtime)  # what is shared by all models does not count
    try:
        RESET.write_text("5")
    except OSError:  # where a container forbids it
        print("null")
        return
    begun, taken = _status("VmRSS"), []
    session = Session(path, runtime, threads=int(threads))
    for batch in json.loads(inputs):
        arrays = [np.zeros(shape, dtype) for shape, dtype in batch]
        for _ in range(2):
            session(*arrays)
        taken.append(max(_status("VmHWM") - begun, 0))
    print(json.dumps(taken))


def _status(key: str) -> int:
    """In bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])
