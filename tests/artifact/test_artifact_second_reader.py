"""A second reader, written from docs/FORMAT.md alone and slow, so that neither the page nor the format can drift."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.artifact.dictionary import DICTIONARY
from tersenet.coding import CODERS
from tersenet.core.change import Change
from tersenet.core.code import Code, Symbols

Same = Callable[[Contents, Contents], None]

PAGE = Path(__file__).parents[2] / "docs" / "FORMAT.md"
NAMES = [
    *("raw", "huffman_direct", "huffman_gaps", "ans_direct", "ans_gaps", "range_direct", "range_gaps", "mix", "lanes"),
]
WEIGHTS = [1073741824, 984625594, 902905651, 827968132, 759250125, 696235434, 638450708, 585461881]
Row = tuple[int, list[int], Any]


def preset() -> bytes:
    block = re.search(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return block[1].replace("\n", "").encode()


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        digits = []
        while True:
            digits.append(self.take(1)[0])
            if digits[-1] < 128:
                return sum((digit & 127) << 7 * place for place, digit in enumerate(digits))


def unzigzag(number: int) -> int:
    return -(number + 1) // 2 if number % 2 else number // 2


def read(data: bytes) -> Contents:
    file = Bytes(data)
    assert file.take(4) == bytes.fromhex("d3747273")
    assert file.varint() == 1
    assert file.varint() == len(data) - file.at
    assert hashlib.blake2b(data[:-8], digest_size=8).digest() == data[-8:]
    text = zlib.decompressobj(-15, preset()).decompress(file.take(file.varint()))
    layouts, names, aliases, model, recipe, versions, data_name, *rest = json.loads(text)
    edits = {path: Change(*edit) if isinstance(edit, list) else edit for path, edit in (rest or [{}])[0].items()}
    kind = file.varint()
    digest = file.take(kind // 2)
    seed = file.varint()
    records = [record(file, layouts) for _ in names]
    tensors = {name: code(file, *each) for name, each in zip(names, records, strict=True)}
    assert file.at == len(data) - 8
    data_digest = digest.decode() if kind % 2 else digest.hex()
    return Contents(tensors, aliases, model, recipe, versions, data_name, data_digest, seed, edits, *rest[1:])


def record(file: Bytes, layouts: list[Any]) -> tuple[Any, ...]:
    first = file.varint()
    layout = layouts[first // 16]
    shape = tuple(file.varint() for _ in range(first % 16))
    options = {name: unzigzag(file.varint()) for name in layout[4]}
    streams = []
    for flags in layout[2].values():
        length = math.prod(shape) if flags & 2 else file.varint()
        streams.append((length, file.varint(), NAMES[file.varint()], file.varint()))
    tables = []
    for dtype, axes, packed in layout[3].values():
        own = (math.prod(shape),) if axes == -1 else tuple(file.varint() for _ in range(axes))
        planes = []
        for _ in range(np.dtype(dtype).itemsize if packed else 0):
            coder = file.varint()
            planes.append((NAMES[coder - 1], file.varint()) if coder else None)
        tables.append((own, planes))
    return layout, shape, options, streams, tables


def code(file: Bytes, layout: Any, shape: Any, options: Any, streams: Any, tables: Any) -> Code:
    found = {}
    for (name, flags), (length, alphabet, coder, size) in zip(layout[2].items(), streams, strict=True):
        values = decode(coder, file.take(size), length, alphabet, shape if math.prod(shape) == length else ())
        found[name] = Symbols(np.array(values, np.int32), alphabet, bool(flags & 1))
    numbers = {}
    for (name, (dtype, _, packed)), (own, planes) in zip(layout[3].items(), tables, strict=True):
        numbers[name] = table(file, np.dtype(dtype), own, planes, packed)
    return Code(layout[0], shape, found, numbers, options, layout[1])


def table(file: Bytes, dtype: np.dtype, shape: tuple[int, ...], planes: list[Any], packed: int) -> np.ndarray:
    count = math.prod(shape)
    if not packed:
        raw = file.take(count * dtype.itemsize)
    else:
        split = [decode(p[0], file.take(p[1]), count, 256) if p else list(file.take(count)) for p in planes]
        raw = bytes(split[place][number] for number in range(count) for place in range(dtype.itemsize))
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)


class Bits:
    def __init__(self, data: bytes) -> None:
        self.text, self.at = "".join(f"{byte:08b}" for byte in data), 0

    def number(self, width: int) -> int:
        self.at += width
        assert self.at <= len(self.text)
        return int(self.text[self.at - width : self.at] or "0", 2)

    def block(self, count: int) -> list[int]:
        k = self.number(3)
        if k == 7:
            return [0] * count
        widths = []
        for _ in range(count):
            zeros = 0
            while not self.number(1):
                zeros += 1
            widths.append(k + zeros)
        return [2**width + self.number(width) - 2**k for width in widths]

    def used(self, alphabet: int) -> list[int]:
        if self.number(1):
            return list(range(alphabet))
        symbols, last = [], -1
        for left_out in self.block(self.block(1)[0] + 1):
            last += 1 + left_out
            symbols.append(last)
        return symbols

    def levels(self, count: int, start: int) -> list[int]:
        return [start := start + unzigzag(step) for step in self.block(count)]


def decode(coder: str, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> list[int]:
    bits = Bits(payload)
    if coder == "raw":
        return [bits.number((alphabet - 1).bit_length()) for _ in range(length)]
    if not length:
        return []
    if coder == "mix":
        return mix(payload, bits, length, alphabet, shape)
    if coder == "lanes":
        return lanes(payload, length)
    family, way = coder.split("_")
    shapes = [(length, alphabet)]
    if way == "gaps":
        width = bits.number(4) + 1
        entries = bits.block(1)[0]
        shapes = [(entries, 2**width), (entries, alphabet)] if entries else []
    rows = [row(bits, family, *shape) for shape in shapes]
    coded = payload[(bits.at + 7) // 8 :]
    decoded = list({"huffman": huffman, "ans": ans, "range": range_coder}[family](coded, rows))
    return decoded[0] if way == "direct" else spread(decoded, length)


def spread(rows: list[list[int]], length: int) -> list[int]:
    values, position = [0] * length, -1
    for distance, symbol in zip(*rows, strict=True) if rows else ():
        position += distance + 1
        values[position] = symbol
    return values


def row(bits: Bits, family: str, length: int, alphabet: int) -> Row:
    used = bits.used(alphabet)
    if len(used) == 1:
        return length, used, None
    if family == "huffman":
        return length, used, bits.levels(len(used), len(used).bit_length())
    step = bits.number(3)
    eighths = [level << step for level in bits.levels(len(used), 0)]
    weights = [WEIGHTS[e % 8] >> e // 8 for e in eighths]
    frequencies = [1 + weight * (2**24 - len(used)) // sum(weights) for weight in weights]
    frequencies[eighths.index(min(eighths))] += 2**24 - sum(frequencies)
    return length, used, frequencies


def huffman(data: bytes, rows: list[Row]) -> Iterator[list[int]]:
    bits = Bits(data)
    for length, used, lengths in rows:
        if lengths is None:
            yield used * length
            continue
        words, word, before = {}, -1, 0
        for size, symbol in sorted(zip(lengths, used, strict=True)):
            word = word + 1 << size - before
            before = size
            words[f"{word:0{size}b}"] = symbol
        found = []
        for _ in range(length):
            begin = bits.at
            while bits.text[begin : bits.at] not in words:
                bits.number(1)
            found.append(words[bits.text[begin : bits.at]])
        yield found


def slot(frequencies: list[int], q: int) -> tuple[int, int, int]:
    """Place in the table, c, f."""
    c = 0
    for place, f in enumerate(frequencies):
        if q < c + f:
            return place, c, f
        c += f
    raise AssertionError(q)


def words_of(data: bytes) -> list[int]:
    data += bytes(-len(data) % 4)
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def ans(data: bytes, rows: list[Row]) -> Iterator[list[int]]:
    stack = words_of(data)
    x = stack.pop() if stack else 0
    x = x << 32 | stack.pop() if stack else x
    for length, used, frequencies in rows:
        found = []
        for _ in range(length):
            place = 0
            if frequencies is not None:
                place, c, f = slot(frequencies, x % 2**24)
                x = (x >> 24) * f + x % 2**24 - c
                x = x << 32 | stack.pop() if x < 2**32 and stack else x
            found.append(used[place])
        yield found
    assert x == 0 and not stack


def range_coder(data: bytes, rows: list[Row]) -> Iterator[list[int]]:
    queue = iter([*words_of(data), *[0] * 10**6])
    low, width, point = 0, 2**64 - 1, next(queue) << 32 | next(queue)
    for length, used, frequencies in rows:
        found = []
        for _ in range(length):
            place = 0
            if frequencies is not None:
                r = width >> 24
                place, c, f = slot(frequencies, (point - low) % 2**64 // r)
                low, width = (low + r * c) % 2**64, r * f
                if width < 2**32:
                    low, width, point = (low << 32) % 2**64, width << 32, (point << 32) % 2**64 + next(queue)
            found.append(used[place])
        yield found


def lanes(payload: bytes, length: int) -> list[int]:
    chunks = -(-length // 2**18)
    sizes, at, found = struct.unpack_from(f"<{chunks}I", payload), 4 * chunks, []
    for size in sizes:
        found += lanes_chunk(payload[at : at + size], min(2**18, length - len(found)))
        at += size
    assert at == len(payload)
    return found


def lanes_chunk(data: bytes, count: int) -> list[int]:
    m = data[0] + 1
    used, frequencies = data[1 : 1 + m], [f + 1 for f in struct.unpack_from(f"<{m}H", data, 1 + m)]
    assert sum(frequencies) == 2**12 and list(used) == sorted(set(used))
    states = list(struct.unpack_from("<8I", data, 1 + 3 * m))
    words = struct.unpack(f"<{(len(data) - 33 - 3 * m) // 2}H", data[33 + 3 * m :])
    found, queue = [], iter(words)
    for i in range(count):
        x = states[i % 8]
        place, c, f = slot(frequencies, x % 2**12)
        x = (x >> 12) * f + x % 2**12 - c
        states[i % 8] = x << 16 | next(queue) if x < 2**16 else x
        found.append(used[place])
    assert states == [2**16] * 8 and next(queue, None) is None
    return found


def mix(payload: bytes, bits: Bits, length: int, alphabet: int, shape: tuple[int, ...]) -> list[int]:
    rows, channels, kernel, width = 1, length, 1, 2
    if len(shape) >= 2:
        rows, channels, kernel, width = shape[0], shape[1], math.prod(shape[2:]), max(shape[-1], 2)
        if kernel == 1 or kernel > 64:
            rows, channels, kernel, width = shape[0], math.prod(shape[1:]), 1, 2
    zero, transposed, lagging, unusual, grouped = (bits.number(1) for _ in range(5))
    lag = bits.block(1)[0] if lagging else 0
    negative = bits.block(1)[0] if unusual else alphabet // 2 if alphabet > 2 else 0
    if transposed:
        rows, channels = channels, rows
    assert channels * kernel <= 2**20 and rows * channels * kernel <= 2**20, "one chunk is enough for a test"
    data = payload[(bits.at + 7) // 8 :]
    depth = max(negative, alphabet - 1 - negative, 1).bit_length()
    grid = Mixed(data, depth, negative > 0, bool(grouped)).read(rows, channels, kernel, width, lag)
    if transposed:
        grid = np.array(grid).reshape(rows, channels, kernel).transpose(1, 0, 2).reshape(channels, -1).tolist()
    numbers = [n for row in grid for n in row]
    if zero:
        return [0 if n == 0 else n + negative + (n < 0) for n in numbers]
    return [n + negative for n in numbers]


class Mixed:
    def __init__(self, data: bytes, depth: int, signed: bool, grouped: bool) -> None:
        self.data, self.at, self.depth, self.signed, self.grouped = data, 4, depth, signed, grouped
        self.low, self.high = 0, 2**32 - 1
        self.point = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self.beliefs: dict[Any, tuple[int, int]] = {}

    def bit(self, p: int) -> int:
        mid = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.point <= mid)
        self.low, self.high = (self.low, mid) if bit else (mid + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            following = self.data[self.at] if self.at < len(self.data) else 0
            self.at += 1
            self.low, self.high = self.low % 2**24 << 8, self.high % 2**24 << 8 | 255
            self.point = self.point % 2**24 << 8 | following
        return bit

    def predicted(self, *contexts: tuple[Any, float, float]) -> int:
        """contexts: name, first mean, first variance."""
        for name, mean, variance in contexts:
            self.beliefs.setdefault(name, (round(mean * 2**16), round(variance * 2**30)))
        z = sum(self.beliefs[name][0] for name, _, _ in contexts) >> 9
        p = round(65536 / (1 + math.exp(-(min(max(z, -1536), 1535) + 0.5) / 128)))
        p = min(max(p, 1), 65535)
        bit = self.bit(p)
        error = 65536 * bit - p
        for name, _, _ in contexts:
            mean, variance = self.beliefs[name]
            less = ((variance * abs(error) >> 16) * variance >> 30) - 10000 if abs(error) >= 2**15 else 0
            self.beliefs[name] = mean + (error * variance >> 30), variance - less
        return bit

    def dead(self, kind: str, count: int, lag: int) -> list[int]:
        flags: list[int] = []
        for i in range(count if self.bit(32768) else 0):
            far = flags[i - lag] if 0 < lag <= i else 0
            flags.append(self.predicted(((kind, flags[-1] if flags else 0, far), -0.6, 0.6)))
        return flags or [0] * count

    def read(self, rows: int, channels: int, kernel: int, width: int, lag: int) -> list[list[int]]:
        dead_rows, dead_channels = self.dead("rows", rows, 0), self.dead("channels", channels, lag)
        columns, size = channels * kernel, kernel if kernel > 1 else 8
        grid = [[0] * columns for _ in range(rows)]
        blocks = [range(first, min(first + size, columns)) for first in range(0, columns, size)]
        live = [[j for j in block if not dead_channels[j // kernel]] for block in blocks]
        before, done, total, entries, sums = [[0] * (len(blocks) + 1)] * 2, 0, 0, 0, [0] * columns
        for r in range(rows):
            if dead_rows[r]:
                continue
            everything = (4096 * total + 2048) // (entries + 4)
            if done < 16 or done % 8 == 0:
                levels, block_levels = column_levels(sums, everything, done, blocks, kernel, lag)
            of_row, coded, following, row_level, found = 0, 0, 2, 0, [0] * (len(blocks) + 1)
            for b, block in enumerate(blocks):
                if not live[b]:
                    continue
                if coded >= following:
                    row_level = level((4096 * of_row + 4 * everything) // (coded + 4)) - level(everything)
                    following = coded + min(max(coded // 2, 2), 16)
                coded += len(live[b])
                if self.grouped and not self.block(b, rows, found, before, block_levels[b] + row_level, lag):
                    continue
                for i, j in enumerate(live[b]):
                    expected = min(max(levels[j] + row_level - 10, 0), 95)
                    inner, none = None, self.grouped and found[b] == 0
                    first = 2.5 / (len(live[b]) - i) if none else 0
                    if kernel > 1:
                        inner = (("inner", j - block[0], min(found[b], 7)), first, 0.3)
                    elif self.grouped:
                        inner = (("inner", len(live[b]) - i if none else 0), first, 0.3)
                    last = none and i + 1 == len(live[b])
                    n = self.entry(
                        Around(grid, r, j, kernel, width, lag), expected, (j if rows > 1 else 0), inner, last
                    )
                    grid[r][j] = n
                    found[b] += n != 0
                    of_row += min(abs(n), 8191)
                    sums[j] += min(abs(n), 8191)
            before, total, entries, done = [found, before[0]], total + of_row, entries + coded, done + 1
        return grid

    def block(self, b: int, rows: int, found: list[int], before: list[list[int]], size: int, lag: int) -> int:
        left = min(found[b - 1], 3) if b else 0
        far = min(found[(8 * b - lag + 4) // 8], 2) if lag and 8 * b >= lag else 0
        near = (min(before[0][b], 3), before[1][b] > 0, before[0][b + 1] > 0, left, far)
        size = min(max(size - 10, 0), 95)
        return self.predicted(
            (("near blocks", *near), 0, 0.1),
            (("block", b if rows > 1 else 0), 0, 0.17),
            (("expected block", size), 0.12 * (size - 26), 0.26),
        )

    def entry(self, around: Around, expected: int, column: int, inner: Any, last: bool) -> int:
        contexts = [
            (("column", column), 0, 0.1),
            (("near", around.near()), 0, 0.18),
            (("expected", expected), -0.9 + 0.04 * (expected - 26), 0.26),
            *([inner] if inner else []),
        ]
        if not last and not self.predicted(*contexts):
            return 0
        nearest, others = around.signs()
        negative = self.signed and self.predicted((("nearest", nearest), 0, 0.5), (("others", others), 0, 0.1))
        total, octave, n = around.size(), 0, 1

        def part(node: Any, mean: float, slope: float) -> int:
            sizes = ((node, "expected", expected), slope * (expected - 32 - 4 * octave), 0.22)
            return self.predicted((node, mean, 0.9), sizes, ((node, "around", total), 0, 0.1))

        while octave + 1 < self.depth and part(("size", octave), -0.1, 0.04):
            octave += 1
        for digit in range(octave - 1, -1, -1):
            known = octave - 1 - digit
            bit = part(("digit", min(octave, 7), known, n), 0, 0) if known < 3 else self.predicted((digit, 0, 0.9))
            n = 2 * n + bit
        return -n if negative else n


def column_levels(
    sums: list[int], everything: int, done: int, blocks: list[range], kernel: int, lag: int
) -> tuple[list[int], list[int]]:
    means = [(4096 * each + 4 * everything) * (2**24 // (done + 4)) >> 24 for each in sums]
    of_blocks = [sum(means[j] for j in block) // len(block) for block in blocks]
    last = len(sums) - 1

    def smooth(j: int) -> int:
        if kernel > 1:
            return means[j] + 3 * of_blocks[j // kernel] >> 2
        if not lag:
            return means[j]
        far = means[j - lag if j >= lag else j] + means[j + lag if j + lag <= last else j]
        return (means[j] + means[max(j - 1, 0)] + means[min(j + 1, last)] + far) // 5

    return [level(smooth(j)) for j in range(len(sums))], [level(each) for each in of_blocks]


def level(x: int) -> int:
    x = min(x, 2**24 - 1)
    k = max(x.bit_length() - 3, 0)
    return 4 * k + (x >> k)


class Around:
    """The neighbours of an entry: a, b to the left, c, d above, e, f beside c, g, h, i further to the left."""

    def __init__(self, grid: list[list[int]], r: int, j: int, kernel: int, width: int, lag: int) -> None:
        def at(up: int, left: int) -> int:
            row, column = r - up, j - left
            return grid[row][column] if row >= 0 and 0 <= column < len(grid[0]) else 0

        self.a, self.b, self.c, self.d, self.e, self.f = at(0, 1), at(0, 2), at(1, 0), at(2, 0), at(1, 1), at(1, -1)
        self.g = self.h = self.i = 0
        if kernel > 1:
            self.g, self.h, self.i = at(0, kernel), at(0, width), at(0, width - 1)
        elif lag:
            self.g, self.h, self.i = at(0, lag), at(0, lag + 1), at(0, lag - 1)

    def near(self) -> tuple[Any, ...]:
        pairs = ((self.a, self.b), (self.c, self.d), (self.g, self.h))
        return tuple((min(abs(one), 2), other != 0) for one, other in pairs)

    def signs(self) -> tuple[Any, int]:
        sign = [(n > 0) - (n < 0) for n in (self.a, self.c, self.g, self.b, self.d, self.e, self.f, self.h, self.i)]
        return tuple(sign[:3]), sum(sign[3:])

    def size(self) -> int:
        twice = abs(self.a) + abs(self.c) + abs(self.g)
        once = sum(map(abs, (self.b, self.d, self.e, self.f, self.h, self.i)))
        return min(level(2 * twice + once), 31)


@pytest.mark.parametrize("shape", [(40, 30), (12, 6, 3, 3), (9, 4, 5), (30, 56), (500,), (90, 100), (30, 16, 3, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_second_reader_reads_mixed_predictions(same: Same, shape: tuple[int, ...], bits: int, density: float) -> None:
    rng = np.random.default_rng(bits)
    top = 2 ** (bits - 1)
    numbers = np.clip(np.rint(rng.laplace(size=shape) * top / 3), -top, top - 1).astype(int)
    numbers[rng.random(shape[0]) < 0.2] = 0
    numbers[rng.random(shape) > density] = 0
    numbers[(rng.random(shape) < 0.5) & (np.arange(shape[-1]) % 28 > 9)] = 0
    symbols = np.where(numbers == 0, 0, numbers + top + (numbers < 0)).reshape(-1).astype(np.int32)
    stream = Symbols(np.minimum(symbols, 2 * top - 1), 2 * top, zero=True)
    contents = Contents({"w": Code("any", shape, {"index": stream}, {})}, data_digest="00ff")
    data, ledger = artifact.to_bytes(contents, "mix")
    assert ledger.rows[0].coders == {"index": "mix"}
    same(read(data), contents)


@pytest.mark.parametrize("coder", sorted(CODERS))
def test_second_reader_reads_the_same(small: Contents, same: Same, coder: str) -> None:
    same(read(artifact.to_bytes(small, coder)[0]), small)


@pytest.mark.parametrize("coder", ["huffman", "ans", "range"])
def test_second_reader_reads_packed_tables_and_long_streams(same: Same, coder: str) -> None:
    rng = np.random.default_rng(3)
    symbols = Symbols(np.minimum(rng.geometric(0.4, 5000) - 1, 300).astype(np.int32), 301, zero=True)
    sparse = Symbols(np.where(rng.random(5000) < 0.02, 1 + rng.integers(0, 9, 5000), 0).astype(np.int32), 10, zero=True)
    tables = {"values": rng.normal(0, 0.1, 700).astype(np.float32), "more": np.arange(600).reshape(20, 30)}
    contents = Contents({"w": Code("any", (5000,), {"a": symbols, "b": sparse}, tables)}, data_digest="00ff")
    data, ledger = artifact.to_bytes(contents, coder)
    assert {"a", "b", "values", "more"} == set(ledger.rows[0].coders)
    same(read(data), contents)


def test_page_and_code_have_the_same_dictionary_and_coders() -> None:
    assert preset() == DICTIONARY
    assert f"{len(DICTIONARY):,} bytes" in PAGE.read_text(encoding="utf-8")
    assert {CODERS[name].id: name for name in CODERS} == dict(enumerate(NAMES))
