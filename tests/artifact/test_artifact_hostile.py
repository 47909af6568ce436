"""Damaged, altered and malicious files: each is refused with a reason, at once and in little memory."""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.artifact.dictionary import DICTIONARY
from tersenet.artifact.envelope import DIGEST_BYTES, MAGIC, seal
from tersenet.artifact.varint import varint
from tersenet.core.errors import ArtifactError

TEXT = [[], [], {}, None, {}, {}, ""]


def deflate(raw: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return deflater.compress(raw) + deflater.flush()


def forge(text: object = None, records: bytes = b"", *, raw: bytes | None = None, packed: bytes | None = None) -> bytes:
    """A file with a right digest around whatever is given."""
    raw = json.dumps(TEXT if text is None else text).encode() if raw is None else raw
    packed = deflate(raw) if packed is None else packed
    return seal(varint(len(packed)) + packed + varint(0) + varint(0) + records)


def tensors(layout: list[object], records: bytes, names: list[str] | None = None) -> bytes:
    """A file of one layout whose index and data are `records`."""
    return forge([[layout], names or ["w"], {}, None, {}, {}, ""], records)


def numbers(*values: int) -> bytes:
    return b"".join(map(varint, values))


STREAM = ["shared", "float32", {"index": 0}, {}, []]
FULL = ["shared", "float32", {"index": 2}, {}, []]


def table(dtype: str, axes: int, packed: int = 0) -> list[object]:
    return ["dense", "float32", {}, {"values": [dtype, axes, packed]}, []]


def refusal(data: bytes) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifact.read_bytes(data)
    return str(caught.value)


@contextmanager
def little_memory_and_time(limit_bytes: int = 2**22, limit_seconds: float = 1.0) -> Iterator[None]:
    tracemalloc.start()
    started = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - started < limit_seconds
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def test_forged_files_are_right_but_for_what_the_tests_change() -> None:
    assert artifact.read_bytes(forge()) == Contents({})
    code = artifact.read_bytes(tensors(table("uint8", 1), numbers(0x01, 3, 3) + b"abc")).tensors["w"]
    assert code.tables["values"].tobytes() == b"abc"


def test_truncation_at_every_byte(small: Contents) -> None:
    data, _ = artifact.to_bytes(small)
    artifact.read_bytes(data)
    for length in range(len(data)):
        words = refusal(data[:length])
        assert "not a .terse file" in words if length == 0 else "truncated" in words or "malformed" in words
        if length > len(MAGIC) + 3:
            assert words == f"truncated: {length} of {len(data)} bytes are there"


def test_every_single_bit_flipped(small: Contents) -> None:
    data, _ = artifact.to_bytes(small)
    for place in range(8 * len(data)):
        altered = bytearray(data)
        altered[place // 8] ^= 1 << place % 8
        words = refusal(bytes(altered))
        if place // 8 >= len(MAGIC) + 3:
            assert words == "altered: its digest does not match its contents"


def test_bytes_added_or_doubled(small: Contents) -> None:
    data, _ = artifact.to_bytes(small)
    assert refusal(data + b"\0") == "altered: 1 bytes follow its end"
    assert refusal(data + data) == f"altered: {len(data)} bytes follow its end"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a .terse file; it is empty"),
        (b"PK\x03\x04 a zip archive", "not a .terse file; it begins with the bytes 50 4b 03 04"),
        (b"\x80\x02}q\x00.", "not a .terse file"),
        (MAGIC, "malformed: the format version needs 1 bytes"),
        (MAGIC + b"\x07" + bytes(100), "written by format version 7, this reads up to 1; update tersenet"),
        (MAGIC + b"\x80\x01" + bytes(100), "written by format version 128, this reads up to 1; update tersenet"),
        (MAGIC + b"\x00" + bytes(100), "format version 0"),
        (MAGIC + b"\x01" + b"\xff" * 9, "2^63 or more"),
        (MAGIC + b"\x01\x03abc", "digest does not match"),
        (MAGIC + b"\x01" + varint(2**62), "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_what_is_no_file_of_this_version(data: bytes, words: str) -> None:
    assert words in refusal(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # terabytes: out of one symbol, which takes no bytes at all
        (tensors(STREAM, numbers(0x00, 2**40, 1, 0, 0)), "unfold"),
        (tensors(STREAM, numbers(0x00, 2**62, 1, 0, 0)), "unfold"),
        (tensors(FULL, numbers(0x02, 2**31, 2**31, 1, 0, 0)), "unfold"),
        (tensors(STREAM, numbers(0x00, 1, 2**31, 0, 0)), "unfold"),
        (tensors(STREAM, numbers(0x00, 1, 2**32, 0, 0)), "out of 4294967296"),
        (tensors(STREAM, numbers(0x00, 1, 0, 0, 0)), "1 symbols out of 0"),
        # by shape alone, by an empty shape, by many axes
        (tensors(["x", "y", {}, {}, []], numbers(0x01, 2**40)), "unfold"),
        (tensors(["x", "y", {}, {}, []], numbers(0x03, 0, 2**60, 2**60)), "unfold"),
        (tensors(["x", "y", {}, {}, []], numbers(0x0F, *[2**62] * 15)), "unfold"),
        (tensors(table("complex128", 1), numbers(0x00, 2**40)), "unfold"),
        (tensors(table("complex128", 2), numbers(0x00, 0, 2**62)), "unfold"),
        (tensors(table("float32", -1, 1), numbers(0x01, 2**40, 0, 0, 0, 0)), "unfold"),
        # lengths that lead elsewhere
        (tensors(STREAM, numbers(0x00, 8, 2, 0, 2**50)), "the data of 'w' needs"),
        (tensors(table("uint8", 1), numbers(0x00, 9) + b"12345678"), "needs 9 bytes where 8 are left"),
        (tensors(table("uint8", 1), numbers(0x00, 7) + b"12345678"), "1 bytes follow the last tensor"),
        (tensors(table("uint8", 1), numbers(0x01)), "the record of 'w' needs 1 bytes where 0 are left"),
        (tensors(table("uint8", 1), b"\x01\x83\x00"), "needless zero byte"),
        # numbers that name nothing
        (tensors(STREAM, numbers(0x10, 8, 2, 0, 1) + b"."), "names layout 1 of 1"),
        (tensors(STREAM, numbers(0x00, 8, 2, 99, 1) + b"."), "unknown coder 99; update tersenet"),
        (tensors(table("uint8", -1, 1), numbers(0x01, 8, 100, 1) + b"."), "unknown coder 99; update tersenet"),
        # payloads
        (tensors(STREAM, numbers(0x00, 8, 2, 0, 9) + bytes(9)), "tensor 'w': malformed: stream 'index'"),
        (tensors(STREAM, numbers(0x00, 2, 3, 0, 1) + b"\xf0"), "stream 'index' cannot be decoded"),
        (tensors(table("bool", 1), numbers(0x00, 2) + b"\x01\x02"), "not all 0 or 1"),
        # layouts
        (tensors(table("object", 1), numbers(0x00, 0)), "text part"),
        (tensors(table("uint8", 16), numbers(0x00, 0)), "text part"),
        (tensors(table("uint8", -2), numbers(0x00, 0)), "text part"),
        (tensors(["x", "y", {"s": 4}, {}, []], b""), "text part"),
        (tensors(["x", "y", {}, {}, ["a", "a"]], numbers(0, 0, 0)), "names an option twice"),
        (tensors(["x", "y", {}, {}, [str(n) for n in range(33)]], numbers(0, *[0] * 33)), "more than 32"),
        (tensors(["x", "y", {}, {}, []], numbers(0, 0), ["w", "w"]), "same name"),
        (forge([[], [], {"a": "b"}, None, {}, {}, ""]), "which is not there"),
        (forge([[["x", "y", {}, {}, []]], ["w"], {"w": "w"}, None, {}, {}, ""], b"\0"), "both a tensor and"),
        # text
        (forge([]), "text part"),
        (forge([*TEXT, "more"]), "text part"),
        (forge([[], [], {}, 5, {}, {}, ""]), "text part"),
        (forge(raw=b"not json"), "text part"),
        (forge(raw=b"\xff\xfe"), "text part"),
        (forge(raw=b'[[],[],{},null,{"a":NaN},{},""]'), "text part"),
        (forge(raw=b'[[],[],{},null,{},{},"\\ud800"]'), "text part"),
        (forge(raw=b'[[],[],{},null,{"a":' + b"[" * 65 + b"]" * 65 + b'},{},""]'), "nested deeper than 64"),
        (forge(raw=b"[" * 200_000), "nested deeper than 64"),
        (forge(raw=b'"' + b"[" * 500 + b'"'), "not as it should be"),
        (forge(packed=b"\xff" * 9), "not a deflate stream"),
        (forge(packed=b""), "does not end where its deflate stream ends"),
        (forge(packed=deflate(json.dumps(TEXT).encode()) + b"."), "does not end where its deflate stream ends"),
        (forge(packed=deflate(json.dumps(TEXT).encode())[:-1]), "does not end where its deflate stream ends"),
        (forge(packed=deflate(bytes(2**21))), "unfolds to more than"),
        # the rest of the header
        (seal(varint(50)), "the text part needs 50 bytes"),
        (seal(b""), "the length of the text part"),
        (seal(varint(len(deflate(b"[]"))) + deflate(b"[]")), "text part"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_wrong_contents_under_a_right_digest(data: bytes, words: str) -> None:
    with little_memory_and_time():
        assert words in refusal(data)


@pytest.mark.parametrize(
    ("digest", "words"), [(numbers(2 * 9) + b"8 bytes.", "data digest needs"), (numbers(3) + b"\xff", "not UTF-8")]
)
def test_data_digest(digest: bytes, words: str) -> None:
    packed = deflate(json.dumps(TEXT).encode())
    assert words in refusal(seal(varint(len(packed)) + packed + digest))


def test_text_that_unfolds_a_thousandfold() -> None:
    data = forge(packed=deflate(bytes(2**27)))
    with little_memory_and_time(limit_bytes=2**26):
        assert "unfolds to more than the 16777216 bytes" in refusal(data)


def test_one_symbol_repeated_within_bounds_is_no_bomb() -> None:
    """A few bytes may unfold to some megabytes, as a constant tensor does, and to no more."""
    code = artifact.read_bytes(tensors(STREAM, numbers(0x00, 2**20, 1, 0, 0))).tensors["w"]
    assert code.streams["index"].values.shape == (2**20,)


def test_more_memory_than_the_caller_allows(small: Contents) -> None:
    data = tensors(STREAM, numbers(0x00, 2**20, 1, 0, 0))
    with pytest.raises(ArtifactError, match="max_bytes over 4194000"):
        artifact.read_bytes(data, max_bytes=4_194_000)


def test_a_digest_collides_once_in_2_to_the_64() -> None:
    assert DIGEST_BYTES == 8
