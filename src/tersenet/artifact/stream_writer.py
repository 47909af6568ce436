"""A `.terse` file written tensor by tensor: coded bytes wait in a spool beside it, a journal says what is in there.

Names and sizes of all tensors stand before their bytes in the file, so it is put together at the end, in one pass. A
writer that was killed goes on after the last tensor in its journal.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tersenet.artifact.contents import Contents
from tersenet.artifact.document import front
from tersenet.artifact.entry import Account, Entry, Plane, Stream, Table, check_volume, unfolded_bytes
from tersenet.artifact.envelope import DIGEST_BYTES, preamble
from tersenet.artifact.ledger import Ledger, ledger
from tersenet.core.disk import replace_file, why
from tersenet.core.errors import ArtifactError

AT_ONCE = 1 << 24
"""Bytes copied at once."""


class StreamWriter:
    """Writes `path`; until `finish`, `.NAME.spool` and `.NAME.journal` lie beside it.

    key: what the file is made from, as plain JSON values; a journal is continued only if its key is the same.
    resume: keep what an interrupted writer left. `done` then has the names of the tensors that are kept, in order.
    Leaving the `with` block by an error that the user must mend in the input removes spool and journal; an interrupt
    or trouble with the disk leaves them.
    """

    def __init__(self, path: Path, key: dict[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.spool_path = self.path.with_name(f".{self.path.name}.spool")
        self.journal_path = self.path.with_name(f".{self.path.name}.journal")
        self._sized: list[tuple[dict[str, Any], int]] = []
        try:
            if resume:
                self._recover(json.loads(json.dumps(key)))
            end = self._sized[-1][1] if self._sized else 0
            self._spool = self.spool_path.open("r+b" if self._sized else "wb")
            self._spool.truncate(end)
            self._spool.seek(end)
            self._journal = self.journal_path.open("ab" if self._sized else "wb")
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be written: {why(error)}") from None
        if not self._sized:
            self._note({"key": key})

    @property
    def done(self) -> list[str]:
        return [entry["name"] for entry, _ in self._sized]

    def add(self, entry: Entry) -> None:
        """The next tensor. Raises ArtifactError if the disk refuses."""
        check = 0
        try:
            for payload in entry.payloads:
                self._spool.write(payload)
                check = zlib.crc32(payload, check)  # against what a power failure may lose
            self._spool.flush()
            found = (_sizes(entry), self._spool.tell())
            self._note({"entry": found[0], "end": found[1], "check": check})
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be written: {why(error)}") from error
        self._sized.append(found)

    def finish(self, contents: Contents) -> Ledger:
        """Put the file together, replace `path` by it in one step, and return where each byte went.

        contents: where the model came from; its tensors are not looked at.
        Raises ArtifactError if the format cannot hold it or the disk refuses.
        """
        self._spool.flush()
        spool = _mapped(self.spool_path)
        head, entries = front(contents, list(_with_payloads(self._sized, spool)))
        body = len(head) + len(spool)
        total = len(preamble(body)) + body + DIGEST_BYTES
        check_volume(sum(map(unfolded_bytes, entries)), total, None)
        replace_file(self.path, _sealed(preamble(body) + head, spool), ArtifactError)
        self.discard()
        return ledger(entries, total)

    def discard(self) -> None:
        """Remove spool and journal."""
        self._close()
        self.spool_path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error.__cause__ or error, OSError):
            self.discard()
        self._close()

    def _close(self) -> None:
        self._spool.close()
        self._journal.close()

    def _note(self, line: dict[str, Any]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()

    def _recover(self, key: dict[str, Any]) -> None:
        """Take over what the journal says, up to the first thing that is not so."""
        if not (self.journal_path.is_file() and self.spool_path.is_file()):
            return
        first, *lines = self.journal_path.read_bytes().splitlines(keepends=True) or [b""]
        found = _line(first)
        if found is None:
            return
        if found.get("key") != key:
            raise ArtifactError(
                f"{self.path}: was interrupted with another input or other options; leave out --resume to start anew"
            )
        kept, end, spool = len(first), 0, _mapped(self.spool_path)
        for line in lines:
            step = _line(line)
            if step is None or step["end"] > len(spool):
                break
            if zlib.crc32(spool[end : step["end"]]) != step["check"]:
                break
            kept, end = kept + len(line), step["end"]
            self._sized.append((step["entry"], end))
        with self.journal_path.open("r+b") as journal:
            journal.truncate(kept)


def _line(line: bytes) -> dict[str, Any] | None:
    """None for one that was cut off."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _mapped(path: Path) -> memoryview:
    """The bytes of a file, without reading them."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def _sealed(head: bytes, spool: memoryview) -> Iterator[bytes | memoryview]:
    digest = hashlib.blake2b(head, digest_size=DIGEST_BYTES)
    yield head
    for begin in range(0, len(spool), AT_ONCE):
        part = spool[begin : begin + AT_ONCE]
        digest.update(part)
        yield part
    yield digest.digest()


def _sizes(entry: Entry) -> dict[str, Any]:
    """The entry as plain JSON values, with the length of each payload in its place."""
    return asdict(
        replace(
            entry,
            streams=tuple(replace(stream, payload=len(stream.payload)) for stream in entry.streams),  # type: ignore[arg-type]
            tables=tuple(
                replace(table, planes=tuple(replace(p, payload=len(p.payload)) for p in table.planes))  # type: ignore[arg-type]
                for table in entry.tables
            ),
        )
    )


def _with_payloads(sized: list[tuple[dict[str, Any], int]], spool: memoryview) -> Iterator[Entry]:
    place = 0

    def take(length: int) -> memoryview:
        nonlocal place
        place += length
        return spool[place - length : place]

    for entry, _ in sized:
        streams = tuple(
            Stream(**stream | {"payload": take(stream["payload"]), "account": _account(stream["account"])})
            for stream in entry["streams"]
        )
        tables = tuple(
            Table(**table | {"shape": tuple(table["shape"]), "planes": tuple(
                Plane(**plane | {"payload": take(plane["payload"])}) for plane in table["planes"]
            )})
            for table in entry["tables"]
        )  # fmt: skip
        yield Entry(**entry | {"shape": tuple(entry["shape"]), "streams": streams, "tables": tables})


def _account(found: dict[str, Any] | None) -> Account | None:
    return None if found is None else Account(**found)
