"""The outermost layer of a file: magic, format version, length, and the digest that guards everything before it."""

from __future__ import annotations

import hashlib

from tersenet.artifact.varint import Cursor, varint
from tersenet.core.errors import ArtifactError

MAGIC = b"\xd3trs"
"""Not valid UTF-8, so that no text file begins like this."""

VERSION = 1
DIGEST_BYTES = 8


def seal(body: bytes) -> bytes:
    """The complete file around `body`."""
    data = preamble(len(body)) + body
    return data + _digest(data)


def preamble(body: int) -> bytes:
    """What stands before a body of so many bytes."""
    return MAGIC + varint(VERSION) + varint(body + DIGEST_BYTES)


def unseal(data: bytes | memoryview) -> Cursor:
    """A cursor over the body. Raises ArtifactError unless every byte of `data` is as `seal` wrote it."""
    if data[: len(MAGIC)] != MAGIC:
        if len(data) and MAGIC.startswith(bytes(data[: len(MAGIC)])):
            raise ArtifactError("truncated: it ends within its first bytes")
        raise ArtifactError(f"not a .terse file; it {_beginning(data)}")
    cursor = Cursor(memoryview(data), len(MAGIC), len(data))
    version = cursor.varint("the format version")
    if version > VERSION:
        raise ArtifactError(f"written by format version {version}, this reads up to {VERSION}; update tersenet")
    if version < 1:
        raise ArtifactError("altered: it says format version 0, and versions begin at 1")
    rest = cursor.varint("the length")
    there, stated = len(data), cursor.position + rest
    if there < stated:
        raise ArtifactError(f"truncated: {there} of {stated} bytes are there")
    if there > stated:
        raise ArtifactError(f"altered: {there - stated} bytes follow its end")
    if rest < DIGEST_BYTES or _digest(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise ArtifactError("altered: its digest does not match its contents")
    return Cursor(cursor.data, cursor.position, len(data) - DIGEST_BYTES)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _beginning(data: bytes | memoryview) -> str:
    return f"begins with the bytes {data[: len(MAGIC)].hex(' ')}" if len(data) else "is empty"
