"""Mutated files by the thousand: none may do anything but be read or be refused, in bounded time and memory."""

from __future__ import annotations

import random
import resource
import time
import zlib
from collections import Counter
from collections.abc import Callable

import pytest

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.artifact.dictionary import DICTIONARY
from tersenet.artifact.document import ledger_of
from tersenet.artifact.envelope import seal, unseal
from tersenet.artifact.varint import varint
from tersenet.coding import CODERS
from tersenet.core.errors import ArtifactError

FILES = 10_000
SECONDS = 60.0
BYTES = 2**28
"""A file of 600 bytes may unfold to 64 MiB + 600 · 128 KiB = 139 MiB; decoding may take as much again."""

NASTY = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff" * 8 + b"\x7f", b"\x80\x80\x80\x80\x04", b"[", b'"', b"9")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits flipped, bytes overwritten, put in, cut out or copied elsewhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, length = rng.randrange(len(data) + 1), rng.randrange(1, 5)
        other = rng.randrange(len(data) + 1)
        put = rng.choice((rng.choice(NASTY), rng.randbytes(length), data[other : other + length]))
        data = rng.choice(
            (data[:at] + put + data[at:], data[:at] + put + data[at + len(put) :], data[:at] + data[at + length :])
        )
        if data and rng.random() < 0.5:
            flip = rng.randrange(len(data))
            data = data[:flip] + bytes([data[flip] ^ 1 << rng.randrange(8)]) + data[flip + 1 :]
    return data


def anywhere(rng: random.Random, data: bytes) -> bytes:
    mutated = mutate(rng, data)
    return mutated if mutated != data else data[:-1]


def under_the_digest(rng: random.Random, data: bytes) -> bytes:
    """The body mutated and sealed again, so that the parser gets to see it."""
    cursor = unseal(data)
    return seal(mutate(rng, bytes(cursor.take(cursor.left, "body"))))


def under_the_text(rng: random.Random, data: bytes) -> bytes:
    """The text mutated and deflated again, so that the checks behind the inflater get to see it."""
    cursor = unseal(data)
    packed = bytes(cursor.take(cursor.varint("length"), "text"))
    text = zlib.decompressobj(-15, DICTIONARY).decompress(packed)
    text = another_digit(rng, text) if rng.random() < 0.5 else mutate(rng, text)
    deflater = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    packed = deflater.compress(text) + deflater.flush()
    return seal(varint(len(packed)) + packed + bytes(cursor.take(cursor.left, "rest")))


def another_digit(rng: random.Random, text: bytes) -> bytes:
    """Still JSON, so that what it says is looked at and not only how it is written."""
    place = rng.choice([place for place, sign in enumerate(text) if chr(sign).isdigit()])
    return text[:place] + str(rng.randrange(10)).encode() + text[place + 1 :]


def under_the_index(rng: random.Random, data: bytes) -> bytes:
    """Only the bytes just behind the text mutated: data digest, seed, and the records with every size."""
    cursor = unseal(data)
    head = bytes(cursor.take(cursor.varint("length"), "text"))
    rest = bytes(cursor.take(cursor.left, "rest"))
    return seal(varint(len(head)) + head + mutate(rng, rest[:60]) + rest[60:])


@pytest.mark.parametrize("way", [anywhere, under_the_digest, under_the_text, under_the_index])
def test_mutated_files(small: Contents, way: Callable[[random.Random, bytes], bytes]) -> None:
    files = [artifact.to_bytes(small, coder)[0] for coder in CODERS]
    assert {outcome(data) for data in files} == {"read"}  # and what decodes them is compiled
    rng = random.Random(way.__name__)
    outcomes: Counter[str] = Counter()
    started, memory = time.perf_counter(), most_memory()
    for _ in range(FILES // 4):
        outcomes[outcome(way(rng, rng.choice(files)))] += 1
    assert time.perf_counter() - started < SECONDS / 4
    assert most_memory() - memory < BYTES
    assert outcomes.total() == FILES // 4
    if way is anywhere:
        assert outcomes["read"] == 0
    else:
        assert len(outcomes) > 5, "the mutations no longer reach the parser"


def most_memory() -> int:
    """The most bytes this process has ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(data: bytes) -> str:
    """'read', or the kind of refusal; anything else than ArtifactError fails the test."""
    try:
        artifact.read_bytes(data)
    except ArtifactError as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence
        return " ".join(sentence.split()[:4])
    ledger = ledger_of(data)
    assert ledger.header_bytes + sum(row.bytes for row in ledger.rows) == ledger.total == len(data)
    assert min(min(row.values, row.positions, row.tables) for row in ledger.rows) >= 0
    return "read"
