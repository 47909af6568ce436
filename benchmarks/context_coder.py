"""The context coder beside zeroth-order entropy, the other coders and NNCodec, on the same integers.

    python benchmarks/context_coder.py [--nncodec PYTHON] [--terse FILE …] [--coder mix] [--repeats 5] [--seed 0]

--nncodec: a Python with `nncodec` 2.1.3 installed (its requirements differ from ours, so it needs its own environment).
--terse: compressed models; their streams of weights with 1000 entries or more are coded as well.
Speeds are those of the best of the repeats, in CPU time; the coders take turns. What numba compiles at first use is
told apart. The tensors are drawn from the distributions stated below, in sizes such that none outweighs the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tersenet import artifact
from tersenet.coding import decode, encode, entropy_bytes
from tersenet.coding.context_way import Way
from tersenet.core.code import Symbols

HERE = Path(__file__).parent


def quantized(weights: np.ndarray, bits: int) -> np.ndarray:
    """Integers from −(2^(bits − 1) − 1) to its opposite; `weights` are in steps."""
    top = 2 ** (bits - 1) - 1
    return np.clip(np.rint(weights), -top, top).astype(np.int32)


def pruned(weights: np.ndarray, density: float, bits: int = 4) -> np.ndarray:
    """The largest `density` of the weights survive and are quantized; none of these to zero."""
    kept = np.abs(weights) > np.quantile(np.abs(weights), 1 - density)
    step = np.quantile(np.abs(weights[kept]), 0.995) / (2 ** (bits - 1) - 1)
    levels = quantized(weights / step, bits)
    return np.where(kept, np.where(levels == 0, np.sign(weights), levels), 0).astype(np.int32)


def linear(rows: int, columns: int, rng: np.random.Generator, image: int = 0, dead: float = 0.1) -> np.ndarray:
    """Gaussian weights of units and inputs that matter differently, some not at all. `image`: inputs are its pixels, of
    which those near the middle matter, and neighbours have weights alike."""
    rows_matter = np.exp(0.35 * rng.standard_normal((rows, 1))) * (rng.random((rows, 1)) > dead)
    if not image:
        columns_matter = np.exp(0.35 * rng.standard_normal((1, columns))) * (rng.random((1, columns)) > dead)
        return rng.standard_normal((rows, columns)) * rows_matter * columns_matter
    noise = rng.standard_normal((rows, image, image))
    smooth = noise + 0.5 * sum(np.roll(noise, shift, axis) for shift in (-1, 1) for axis in (1, 2))
    y, x = np.mgrid[:image, :image] - (image - 1) / 2
    radius = np.hypot(x, y) / (image / 2)
    return (smooth * np.exp(0.75 - 2 * radius**3)).reshape(rows, columns) * rows_matter


def convolution(filters: int, channels: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Laplace weights, larger in the middle of a kernel, in filters, channels and kernels that matter differently."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    spatial = np.exp(-(x**2 + y**2) * 6 / size**2) + 0.25
    matter = [(filters, 1, 1, 1), (1, channels, 1, 1), (filters, channels, 1, 1)]
    scale = np.exp(sum(0.5 * rng.standard_normal(shape) for shape in matter))
    return rng.laplace(size=(filters, channels, size, size)) * spatial * scale


def scales(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    return np.exp(0.4 * rng.standard_normal((rows, 1)) + 0.3 * rng.standard_normal((1, columns)))


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal, laplace = rng.standard_normal, lambda shape: rng.laplace(size=shape)
    dense = (128, 192)
    scattered = rng.random((300, 784)) < 0.05
    few = rng.random((32, 128)) < 0.03
    return {
        "pruned linear 300×784 on images, 5 %, 4 bits": pruned(linear(300, 784, rng, image=28), 0.05),
        "pruned linear 512×512, 8 %, 4 bits": pruned(linear(512, 512, rng), 0.08),
        "pruned linear 100×300, 9 %, 4 bits": pruned(linear(100, 300, rng), 0.09),
        "pruned linear 32×128, 3 %, 4 bits": pruned(linear(32, 128, rng), 0.03),
        "pruned convolution 50×20×5×5, 8 %, 4 bits": pruned(convolution(50, 20, 5, rng), 0.08),
        "pruned convolution 128×64×3×3, 10 %, 4 bits": pruned(convolution(128, 64, 3, rng), 0.10),
        "mask 300×300, 10 %": np.abs(np.sign(pruned(linear(300, 300, rng), 0.10))),
        "ternary 256×256, scales differ": quantized(0.7 * normal((256, 256)) * scales(256, 256, rng), 2),
        "ternary convolution 64×64×3×3": quantized(0.5 * convolution(64, 64, 3, rng), 2),
        "Laplace 128×192, scales differ, 4 bits": quantized(1.3 * laplace(dense) * scales(*dense, rng), 4),
        "Gauss 128×192, scales differ, 8 bits": quantized(24 * normal(dense) * scales(*dense, rng), 8),
        "iid pruned 300×784, 5 %, 4 bits": np.where(scattered, quantized(4 * normal((300, 784)), 4), 0),
        "iid ternary 256×256": quantized(0.7 * normal((256, 256)), 2),
        "iid Laplace 128×192, 4 bits": quantized(1.3 * laplace(dense), 4),
        "iid Gauss 128×192, 8 bits": quantized(30 * normal(dense), 8),
        "iid pruned 32×128, 3 %, 3 bits": np.where(few, rng.integers(-3, 4, few.shape), 0),
    }  # fmt: skip


def symbols_of(tensor: np.ndarray) -> Symbols:
    """As the form `uniform` writes them; a mask as it is."""
    if tensor.min() == 0:
        return Symbols(tensor.reshape(-1).astype(np.int32), int(tensor.max()) + 1, True, tensor.shape)
    top = int(np.abs(tensor).max())
    values = Way(True, top).symbols(tensor.reshape(-1)).astype(np.int32)
    return Symbols(values, 2 * top + 1, True, tensor.shape)


def stored(path: str) -> Iterator[tuple[str, Symbols, np.ndarray]]:
    """Streams of a file, and as the signed integers that NNCodec takes: the smallest way it has been coded in."""
    for name, code in artifact.read(path).tensors.items():
        for stream in code.streams.values():
            if len(stream.values) >= 1000 and len(stream.values) == np.prod(code.shape):
                low = -code.options["low"] if "low" in code.options else split_of(stream)
                numbers = Way(stream.zero, low if stream.alphabet > 2 else 0).numbers(stream.values)
                symbols = Symbols(stream.values, stream.alphabet, stream.zero, tuple(code.shape))
                yield f"{Path(path).parent.name} {name}", symbols, numbers.reshape(code.shape)


def split_of(symbols: Symbols) -> int:
    """Where negative symbols end: there, the counts of a magnitude's two signs are most alike."""
    counts = np.bincount(symbols.values, minlength=symbols.alphabet)[1:]
    middle = len(counts) // 2

    def unlike(low: int) -> float:
        size = min(low, len(counts) - low)
        negative, positive = counts[low - size : low][::-1], counts[low : low + size]
        return float(np.abs(negative - positive).sum() + abs(counts.sum() - negative.sum() - positive.sum()))

    return min(range(max(middle - 2, 0), middle + 3), key=unlike)


class NNCodec:
    """The other coder, in a process of its own. Called with a name, it gives bytes and seconds to encode and decode."""

    def __init__(self, python: str, given: dict[str, np.ndarray], folder: str) -> None:
        path = Path(folder) / "tensors.npz"
        self._numbers = {name: number for number, name in enumerate(given)}
        np.savez(path, **{str(number): tensor for number, tensor in enumerate(given.values())})
        command = [python, str(HERE / "nncodec_sizes.py"), str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __call__(self, name: str) -> np.ndarray:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{self._numbers[name]}\n")
        return np.array(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def once(symbols: Symbols, coder: str) -> np.ndarray:
    """Bytes, seconds to encode, seconds to decode."""
    fresh = Symbols(symbols.values, symbols.alphabet, symbols.zero, symbols.shape)  # whose symbols nobody has counted
    start = time.process_time()
    coded = encode(fresh, coder)
    middle = time.process_time()
    back = decode(coded.coder, coded.payload, len(symbols.values), symbols.alphabet, symbols.shape)
    end = time.process_time()
    assert np.array_equal(back, symbols.values)
    return np.array([len(coded.payload), middle - start, end - middle])


def compile_all() -> float:
    start = time.process_time()
    tiny = Symbols(np.zeros(1, np.int32), 2, True)
    decode("mix", encode(tiny, "mix").payload, 1, 2)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nncodec", metavar="PYTHON")
    parser.add_argument("--terse", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--coder", default="mix")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    numbers = tensors(options.seed)
    given = {name: symbols_of(tensor) for name, tensor in numbers.items()}
    for path in options.terse:
        for name, symbols, tensor in stored(path):
            given[name], numbers[name] = symbols, tensor
    print(f"First use, with numba's compiler or its cache: {compile_all():.1f} s\n")
    with tempfile.TemporaryDirectory() as folder:
        rival = NNCodec(options.nncodec, numbers, folder) if options.nncodec else None
        show(given, options.coder, rival, options.repeats)
        if rival:
            rival.close()


def show(given: dict[str, Symbols], coder: str, rival: NNCodec | None, repeats: int) -> None:
    print(
        f"| tensor | entropy | auto | {coder} | NNCodec | {coder} ÷ NNCodec | encode, Msym/s | × | decode, Msym/s | × |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name, symbols in given.items():
        turns = [(once(symbols, coder), rival(name) if rival else np.zeros(3)) for _ in range(repeats)]
        own, other = (np.min([turn[who] for turn in turns], axis=0) for who in (0, 1))
        rows.append((np.array([len(symbols.values), entropy_bytes(symbols), len(encode(symbols).payload)]), own, other))
        print(line(name, *rows[-1]), flush=True)
    print(line("**total**", *(np.sum(part, axis=0) for part in zip(*rows, strict=True))))


def line(name: str, known: np.ndarray, own: np.ndarray, other: np.ndarray) -> str:
    millions, (entropy, auto) = known[0] / 1e6, known[1:]
    share = f"{100 * (own[0] / other[0] - 1):+.1f} %" if other[0] else "–"
    sizes = f"| {name} | {entropy:,.0f} | {auto:,.0f} | {own[0]:,.0f} | {other[0]:,.0f} | {share} "
    return sizes + "".join(f"| {millions / own[i]:.1f} | {other[i] / own[i]:.2f} " for i in (1, 2)) + "|"


if __name__ == "__main__":
    main()
