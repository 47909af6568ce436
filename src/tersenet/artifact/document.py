"""`Contents` as bytes and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tersenet.artifact.contents import Contents, check_aliases
from tersenet.artifact.entry import DEFAULT_MAX_BYTES, Entry, check_volume, unfolded_bytes
from tersenet.artifact.envelope import seal, unseal
from tersenet.artifact.index import layout_of, read_records, with_payloads, write_record
from tersenet.artifact.ledger import Ledger, ledger
from tersenet.artifact.tensor import decode_entry, encode_code
from tersenet.artifact.text import Layout, Text, pack_text, unpack_text
from tersenet.artifact.varint import Cursor, varint
from tersenet.core.errors import ArtifactError


@dataclass(frozen=True)
class Document:
    """A file taken apart, with its streams still coded."""

    text: Text
    data_digest: str
    seed: int
    entries: tuple[Entry, ...]
    total: int


def to_bytes(contents: Contents, coder: str = "auto") -> tuple[bytes, Ledger]:
    """The whole file, and where each of its bytes went. Equal contents give equal bytes.

    coder: auto, best, mix, huffman, ans, range or raw, as in `coding.encode`.
    Raises ArtifactError if the format cannot hold `contents`.
    """
    entries = [encode_code(name, code, coder) for name, code in contents.tensors.items()]
    head, entries = front(contents, entries)
    data = seal(b"".join([head, *(bytes(payload) for entry in entries for payload in entry.payloads)]))
    check_volume(sum(map(unfolded_bytes, entries)), len(data), None)
    return data, ledger(entries, len(data))


def front(contents: Contents, entries: Sequence[Entry]) -> tuple[bytes, list[Entry]]:
    """All of a file's body before the payloads, and the entries with what they take of it.

    contents: where the model came from; its tensors are given as `entries`, whose payloads are not looked at but for
    their lengths. Raises ArtifactError if the format cannot hold them.
    """
    check_aliases(contents.aliases, {entry.name for entry in entries})
    layouts: dict[bytes, tuple[int, Layout]] = {}
    counted, records = [], []
    for entry in entries:
        layout = layout_of(entry)
        number, _ = layouts.setdefault(repr(layout).encode(), (len(layouts), layout))
        records.append(write_record(entry, layout, number))
        counted.append(replace(entry, index_bytes=len(records[-1])))
    text = pack_text(_text(contents, [entry.name for entry in entries], [layout for _, layout in layouts.values()]))
    head = varint(len(text)) + text + _pack_digest(contents.data_digest) + varint(contents.seed)
    return b"".join([head, *records]), counted


def read_bytes(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Contents:
    """What the file `data` holds. Nothing in it is believed: digest first, every size checked before it is allocated.

    max_bytes: most bytes that everything decoded may take.
    Raises ArtifactError, which says what is wrong.
    """
    document = parse(data, max_bytes)
    text = document.text
    return Contents(
        tensors={entry.name: decode_entry(entry) for entry in document.entries},
        aliases=text.aliases,
        model=text.model,
        recipe=text.recipe,
        versions=text.versions,
        data=text.data,
        data_digest=document.data_digest,
        seed=document.seed,
        edits=text.edits,
        graph=text.graph,
    )


def ledger_of(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Ledger:
    """Where each byte of the file `data` went; decodes all of it. Raises ArtifactError as `read_bytes` does."""
    return ledger(parse(data, max_bytes).entries, len(data))


def parse(data: bytes | memoryview, max_bytes: int | None) -> Document:
    """Take a file apart without decoding streams. Raises ArtifactError as `read_bytes` does."""
    cursor = unseal(data)
    text = unpack_text(cursor.take(cursor.varint("the length of the text part"), "the text part"))
    digest, seed = _unpack_digest(cursor), cursor.varint("the seed")
    names = set(text.names)
    if len(names) < len(text.names):
        raise ArtifactError("malformed: two tensors have the same name")
    check_aliases(text.aliases, names)
    records = read_records(cursor, text.names, text.layouts)
    check_volume(sum(unfolded_bytes(entry) for entry, _ in records), len(data), max_bytes)
    entries = tuple(with_payloads(entry, _cut(cursor, lengths, entry.name)) for entry, lengths in records)
    if cursor.left:
        raise ArtifactError(f"malformed: {cursor.left} bytes follow the last tensor")
    return Document(text, digest, seed, entries, len(data))


def _cut(cursor: Cursor, lengths: list[int], name: str) -> Iterator[memoryview]:
    return (cursor.take(length, f"the data of '{name}'") for length in lengths)


def _text(contents: Contents, names: list[str], layouts: list[Layout]) -> Text:
    return Text(
        layouts=layouts,
        names=names,
        aliases=contents.aliases,
        model=contents.model,
        recipe=contents.recipe,
        versions=contents.versions,
        data=contents.data,
        edits=contents.edits,
        graph=contents.graph,
    )


def _pack_digest(digest: str) -> bytes:
    """Length · 2 + (0: written as hexadecimal digits, 1: as text), then the bytes."""
    if re.fullmatch("([0-9a-f]{2})*", digest):
        raw = bytes.fromhex(digest)
        return varint(2 * len(raw)) + raw
    try:
        raw = digest.encode()
    except UnicodeEncodeError:
        raise ArtifactError("cannot be stored: the data digest is not valid Unicode") from None
    return varint(2 * len(raw) + 1) + raw


def _unpack_digest(cursor: Cursor) -> str:
    first = cursor.varint("the length of the data digest")
    raw = bytes(cursor.take(first // 2, "the data digest"))
    if first % 2 == 0:
        return raw.hex()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ArtifactError("malformed: the data digest is not UTF-8") from None
