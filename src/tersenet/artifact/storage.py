"""Files on disk: read whole, or replaced in one step so that a kill leaves the old file or the new one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tersenet.artifact.contents import Contents
from tersenet.artifact.document import ledger_of, read_bytes, to_bytes
from tersenet.artifact.entry import DEFAULT_MAX_BYTES
from tersenet.artifact.ledger import Ledger
from tersenet.core.disk import replace_file, why
from tersenet.core.errors import ArtifactError

T = TypeVar("T")


def write(path: str | Path, contents: Contents, coder: str = "auto") -> Ledger:
    """Write `contents` to `path` and return where each byte went.

    coder: auto, best, mix, huffman, ans, range or raw, as in `coding.encode`.
    Raises ArtifactError if the format cannot hold `contents` or the disk refuses; what stood at `path` then still does.
    """
    data, ledger = _named(path, lambda: to_bytes(contents, coder))
    replace_file(Path(path), data, ArtifactError)
    return ledger


def read(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Contents:
    """What the file at `path` holds.

    max_bytes: most bytes that the file, and everything decoded, may take.
    Raises ArtifactError with path and reason if there is no readable `.terse` file.
    """
    return _named(path, lambda: read_bytes(_load(Path(path), max_bytes), max_bytes=max_bytes))


def inspect(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Ledger:
    """Where each byte of the file at `path` went. Raises ArtifactError as `read` does."""
    return _named(path, lambda: ledger_of(_load(Path(path), max_bytes), max_bytes=max_bytes))


def _load(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()  # before open, which would wait for ever at a pipe
        if stat.S_ISDIR(status.st_mode):
            raise ArtifactError("cannot be read: it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("cannot be read: it is not a regular file")
        if status.st_size > max_bytes:
            raise ArtifactError(f"is {status.st_size} bytes long, more than the {max_bytes} allowed by max_bytes")
        with path.open("rb") as file:
            return file.read(status.st_size)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot be read: {why(error)}") from None


def _named(path: str | Path, action: Callable[[], T]) -> T:
    """`action`, with `path` in front of its errors."""
    try:
        return action()
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    except MemoryError:
        raise ArtifactError(f"{path}: needs more memory than there is") from None
