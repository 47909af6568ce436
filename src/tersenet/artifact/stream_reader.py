"""A `.terse` file read tensor by tensor: mapped into memory, its digest checked first, one tensor decoded at a time."""

from __future__ import annotations

import mmap
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tersenet.artifact.document import Document, parse
from tersenet.artifact.entry import DEFAULT_MAX_BYTES, unfolded_bytes
from tersenet.core.disk import why
from tersenet.core.errors import ArtifactError


@contextmanager
def opened(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Iterator[Document]:
    """The file at `path`, taken apart; `artifact.decode_entry` decodes one of its entries, within the block.

    max_bytes: most bytes that any one tensor may take when decoded; there is no limit on their number.
    Raises ArtifactError with path and reason if there is no readable `.terse` file, also from within the block.
    """
    try:
        document = parse(memoryview(_mapped(Path(path))), None)
        for entry in document.entries:
            if unfolded_bytes(entry) > max_bytes:
                raise ArtifactError(
                    f"tensor '{entry.name}' unfolds to {unfolded_bytes(entry)} bytes, more than the {max_bytes} allowed"
                )
        yield document
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error.__cause__
    except MemoryError:
        raise ArtifactError(f"{path}: needs more memory than there is") from None


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        status = path.stat()  # before open, which would wait for ever at a pipe
        if not stat.S_ISREG(status.st_mode):
            folder = stat.S_ISDIR(status.st_mode)
            raise ArtifactError(f"cannot be read: it is {'a folder' if folder else 'not a regular file'}")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if status.st_size else b""
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot be read: {why(error)}") from None
