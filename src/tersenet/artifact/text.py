"""The text part of the header: everything that is words, as one JSON array through deflate with a preset dictionary."""

from __future__ import annotations

import json
import re
import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from tersenet.artifact.dictionary import DICTIONARY
from tersenet.artifact.entry import DTYPES, MAX_AXES
from tersenet.core.change import Change
from tersenet.core.errors import ArtifactError

MAX_TEXT = 2**24
FREE_TEXT = 2**20
TEXT_PER_BYTE = 2**8
MAX_DEPTH = 64

ZERO, FULL = 1, 2
"""Flags of a stream: symbol 0 is a weight of zero; the stream has one symbol for each element of the weight."""

REQUIRED = 7
"""Elements that a text always has; empty ones at the end are left out beyond them."""

FLAT = -1
"""In place of a table's number of axes: one axis, with one number for each element of the weight."""


Values = Annotated[int, msgspec.Meta(ge=0, le=16)]
"""What a module gave that was taken out: 0 for one tensor, n for a tuple of n."""


class TableLayout(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    dtype: Literal[tuple(DTYPES)]  # type: ignore[valid-type]
    axes: Annotated[int, msgspec.Meta(ge=FLAT, le=MAX_AXES)]
    packed: Literal[0, 1]


class Layout(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What tensors of one kind have in common; each tensor names its layout by number."""

    form: str
    dtype: str
    streams: dict[str, Annotated[int, msgspec.Meta(ge=0, le=ZERO | FULL)]]
    tables: dict[str, TableLayout]
    options: list[str]


class Text(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The array, in the order of its elements; the last two are left out where they are empty."""

    layouts: list[Layout]
    names: list[str]
    aliases: dict[str, str]
    model: dict[str, Any] | None
    recipe: dict[str, Any]
    versions: dict[str, str]
    data: str
    edits: dict[str, dict[str, int] | Values | Change] = {}
    graph: dict[str, Any] = {}


def pack_text(text: Text) -> bytes:
    """Raises ArtifactError if something in it is not plain JSON, or if it is too long for a file."""
    try:
        plain = list(msgspec.to_builtins(text))
        while len(plain) > REQUIRED and not plain[-1]:
            plain.pop()
        raw = json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot be stored: model, recipe and names must be plain JSON values: {error}") from None
    packed = _deflate(raw)
    if len(raw) > _allowed(len(packed)):
        raise ArtifactError(f"cannot be stored: names and recipe take {len(raw)} bytes, more than the format allows")
    if parse_text(raw) != text:
        raise ArtifactError("cannot be stored: model and recipe must be plain JSON values, with strings as all keys")
    return packed


def unpack_text(packed: bytes | memoryview) -> Text:
    """Raises ArtifactError for anything that `pack_text` does not write."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=DICTIONARY)
    allowed = _allowed(len(packed))
    try:
        raw = inflater.decompress(packed, allowed + 1)
    except zlib.error as error:
        raise ArtifactError(f"malformed: the text part is not a deflate stream: {error}") from None
    if len(raw) > allowed:
        raise ArtifactError(f"malformed: the text part unfolds to more than the {allowed} bytes the format allows")
    if not inflater.eof or inflater.unused_data:
        raise ArtifactError("malformed: the text part does not end where its deflate stream ends")
    return parse_text(raw)


def parse_text(raw: bytes) -> Text:
    if _depth(raw) > MAX_DEPTH:
        raise ArtifactError(f"malformed: the text part is nested deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(raw, type=Text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"malformed: the text part is not as it should be: {error}") from None


def _deflate(raw: bytes) -> bytes:
    """The smallest of what zlib's settings give; of equals, the first."""
    levels = range(9, 3, -1) if len(raw) < FREE_TEXT else (9,)
    tries = [(level, strategy) for level in levels for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)]
    return min((_deflate_with(raw, *settings) for settings in tries), key=len)


def _deflate_with(raw: bytes, level: int, strategy: int) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy, DICTIONARY)
    return deflater.compress(raw) + deflater.flush()


def _allowed(packed: int) -> int:
    return min(MAX_TEXT, FREE_TEXT + TEXT_PER_BYTE * packed)


def _depth(raw: bytes) -> int:
    """How deep brackets nest, strings left out."""
    brackets = np.frombuffer(re.sub(rb'"(?:[^"\\]|\\.)*"?|[^\[\]{}"]+', b"", raw, flags=re.DOTALL), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(2 * opening.view(np.int8) - 1, dtype=np.int32).max(initial=0))
