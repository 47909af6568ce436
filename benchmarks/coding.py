"""Speed and size of every coder beside general-purpose compressors, on the same symbols in one run.

    python benchmarks/coding.py [--symbols 4000000] [--repeats 5] [--json]

Speed is in million symbols per second, median of the repeats, tables included. Size is in bytes and as a ratio to the
zeroth-order entropy. The general-purpose compressors get one byte per symbol.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TextIO

import numpy as np
import zstandard

from tersenet.coding import CODERS, coder_id, decode, entropy_bytes
from tersenet.core.code import Symbols

TARGET = {"encode": 50.0, "decode": 30.0}  # million symbols per second for ANS


def pruned(n: int, rng: np.random.Generator) -> Symbols:
    """A pruned and weight-shared layer: 5 % nonzero, 16 values used as a Gaussian would."""
    values = gaussian(n, rng).values + 1
    values[rng.random(n) >= 0.05] = 0
    return Symbols(values, 17, zero=True)


def gaussian(n: int, rng: np.random.Generator) -> Symbols:
    """A dense layer in 4 bits: a Gaussian, uniformly quantized over ±3 standard deviations."""
    values = np.clip(np.floor(rng.standard_normal(n) * 16 / 6 + 8), 0, 15)
    return Symbols(values.astype(np.int32), 16)


SOURCES = {"pruned 5 %, 16 values": pruned, "4-bit Gaussian": gaussian}


def coders(symbols: Symbols) -> Iterator[tuple[str, Callable[[], bytes], Callable[[bytes], object]]]:
    """(name, encode, decode) of everything that can take these symbols."""
    n, alphabet = len(symbols.values), symbols.alphabet
    for name in sorted(CODERS, key=coder_id):
        coder = CODERS[name]
        if coder.plan(symbols) is not None:
            yield name, lambda c=coder: c.plan(symbols).write().payload, lambda p, m=name: decode(m, p, n, alphabet)
    as_bytes = symbols.values.astype(np.uint8).tobytes
    yield "zlib -9", lambda: zlib.compress(as_bytes(), 9), zlib.decompress
    yield "zstd -19", lambda: zstandard.compress(as_bytes(), 19), zstandard.decompress
    yield "lzma -6", lambda: lzma.compress(as_bytes(), preset=6), lzma.decompress


def measure(symbols: Symbols, repeats: int) -> Iterator[dict[str, float | str | int]]:
    millions, bound = len(symbols.values) / 1e6, entropy_bytes(symbols)
    for name, compress, decompress in coders(symbols):
        own = name in CODERS
        payload = compress()
        decompress(payload)  # compiles and warms the caches
        packing = median_time(compress, repeats if own else 1)
        unpacking = median_time(lambda p=payload, d=decompress: d(p), repeats)
        size = len(payload)
        yield {"coder": name, "encode": millions / packing, "decode": millions / unpacking, "bytes": size,
               "ratio": size / bound}  # fmt: skip


def median_time(action: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def show(source: str, bound: float, rows: Iterator[dict[str, float | str | int]], out: TextIO) -> Iterator[dict]:
    print(f"\n{source}: entropy {bound:,.0f} bytes", file=out)
    print(f"{'coder':16}{'encode M/s':>12}{'decode M/s':>12}{'bytes':>12}{'÷ entropy':>11}", file=out)
    for row in rows:
        line = "{coder:16}{encode:12.1f}{decode:12.1f}{bytes:12,d}{ratio:11.4f}".format(**row)
        print(line, file=out, flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=4_000_000, help="length of each array")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    table = sys.stderr if options.json else sys.stdout
    results = []
    for source, draw in SOURCES.items():
        symbols = draw(options.symbols, np.random.default_rng(0))
        bound = entropy_bytes(symbols)
        rows = list(show(source, bound, measure(symbols, options.repeats), table))
        results.append({"source": source, "symbols": options.symbols, "entropy_bytes": bound, "coders": rows})
    if options.json:
        print(json.dumps({"target": TARGET, "sources": results}, indent=2))


if __name__ == "__main__":
    main()
