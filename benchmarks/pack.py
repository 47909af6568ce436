"""Pack and unpack a large state dict: speed, size, peak memory, beside zstandard and, if installed, ZipNN.

    python benchmarks/pack.py [--millions 100] [--dtype bfloat16] [--threads 1] [--modes lossless bits rmse] [--others]

The state dict has the matrices of a language model of that size, with the statistics of trained ones: a deviation for
each row, log-normal, tails heavier than a Gaussian's (Student's t, 12 degrees of freedom), norms near 1. Each tensor
is drawn when it is written. Speed is in bytes of the input, and in weights, per second of the wall clock and of the
processor (all threads together): where other programs share the cores, the second is that of a free core. Peak memory
is what is not mapped from files, above what stood before, and as a multiple of the largest tensor. Others compress the
first matrices in memory, one thread, up to --sample megabytes, the fastest of seven runs.

Everything that was unpacked is verified, band by band: names, types and shapes; all bits of what is not rounded; of
what is, that each weight is the nearest number of steps, computed anew by PyTorch from the weights given and the steps
that the file holds, bit for bit; with --rmse, that no tensor's error is larger. What fails ends the benchmark.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors import safe_open

from tersenet.artifact.entry import Entry
from tersenet.artifact.stream_reader import opened
from tersenet.artifact.tables import decode_table
from tersenet.flow.packing import pack, unpack
from tersenet.flow.state_dicts import write_safetensors
from tersenet.flow.tensor_coding import Precision, decoded, encoded

ROWS = 256
"""Verified at once."""

MODES = {"lossless": Precision(), "bits": Precision(bits=4), "rmse": Precision(rmse=0.05)}


def shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Blocks of a decoder as many as it takes: of width 2048 or, above half a billion parameters, 4096, and 512 below
    fifty million."""
    width = 4096 if parameters > 5e8 else 2048 if parameters >= 5e7 else 512
    block = {
        "attn.qkv.weight": (3 * width, width), "attn.out.weight": (width, width), "mlp.up.weight": (4 * width, width),
        "mlp.down.weight": (width, 4 * width), "norm1.weight": (width,), "norm2.weight": (width,),
    }  # fmt: skip
    count = max(round(parameters / (12 * width**2)), 1)
    return {f"blocks.{n}.{name}": shape for n in range(count) for name, shape in block.items()}


def tensors(made: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for name, shape in made.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            yield name, (1 + 0.1 * values).to(dtype)
            continue
        pool = torch.randn(12, 1 << 16, generator=generator).square_().mean(0).rsqrt_()
        values.view(-1, 1 << 16).mul_(pool)  # the scales of Student's t, the same for every 65536 entries
        spread = torch.exp(0.3 * torch.randn(shape[0], 1, generator=generator)) * 0.7 / shape[1] ** 0.5
        yield name, values.mul_(spread).to(dtype)


def anonymous() -> int:
    """Resident bytes that are not mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Watch:
    """Seconds of wall clock and processor, and the most memory above what there was, sampled every 2 ms."""

    def __enter__(self) -> Watch:
        self.ground = self.most = anonymous()
        self.running = True
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def _sample(self) -> None:
        while self.running:
            self.most = max(self.most, anonymous())
            time.sleep(0.002)

    def __exit__(self, *error: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.running = False
        self.thread.join()


def shown(name: str, watch: Watch, size: int, weights: int, note: str, largest: int | None = None) -> None:
    most = watch.most - watch.ground
    peak = f"   peak {most / 1e6:,.0f} MB, {most / largest:.1f} × largest" if largest else ""
    print(
        f"{name:20} {size / 1e6 / watch.wall:7.0f} MB/s  {weights / 1e6 / watch.wall:6.0f} Mweights/s   "
        f"per core {size / 1e6 / watch.cpu:5.0f} MB/s  {weights / 1e6 / watch.cpu:5.0f} Mweights/s   {note}{peak}",
        flush=True,
    )


@dataclass
class Verified:
    """Of one round trip: how many weights came back in all bits, how many as the number of steps they must be."""

    same: int = 0
    rounded: int = 0
    error: float = 0.0
    norm: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.same:,} weights bit for bit"] if self.same else []
        if self.rounded:
            relative = (self.error / self.norm) ** 0.5
            parts.append(f"{self.rounded:,} weights each the nearest number of steps (relative error {relative:.4f})")
        return "verified: " + ", ".join(parts)


def verify(source: Path, file: Path, back: Path, precision: Precision) -> Verified:
    """Raises AssertionError, naming the tensor, where `back` is not what `precision` promises of `source`."""
    found = Verified()
    with safe_open(source, "pt") as a, safe_open(back, "pt") as b, opened(file) as document:
        entries = {entry.name: entry for entry in document.entries}
        assert set(a.keys()) == set(b.keys()) == set(entries)
        for name, entry in entries.items():
            x, y = a.get_tensor(name), b.get_tensor(name)
            assert x.shape == y.shape and x.dtype == y.dtype, name
            before = replace(found)
            if entry.form == "uniform":
                _check_steps(name, x, y, entry, found)
            else:
                assert torch.equal(_bits(x), _bits(y)), f"{name}: some bit is another"
                found.same += x.numel()
            if precision.rmse is not None and found.norm > before.norm:
                relative = ((found.error - before.error) / (found.norm - before.norm)) ** 0.5
                assert relative <= precision.rmse * (1 + 1e-6), f"{name}: error {relative}"
    return found


def _check_steps(name: str, x: torch.Tensor, y: torch.Tensor, entry: Entry, found: Verified) -> None:
    (table,) = (table for table in entry.tables if table.name == "codebook")
    steps, low = torch.tensor(decode_table(table)).reshape(-1, 1), entry.options["low"]
    high = low + entry.streams[0].alphabet - 1
    x, y = x.flatten(1), y.flatten(1)
    for begin in range(0, len(x), ROWS):
        given, got = x[begin : begin + ROWS].float(), y[begin : begin + ROWS]
        step = steps if len(steps) == 1 else steps[begin : begin + ROWS]
        nearest = (given / step).clamp_(low, high).round_().mul_(step).add_(0.0)  # −0 becomes +0
        assert torch.equal(_bits(nearest.to(got.dtype)), _bits(got)), f"{name}: not the nearest number of steps"
        found.error += float((got.double() - given.double()).square_().sum())
        found.norm += float(given.double().square_().sum())
    found.rounded += x.numel()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def ours(mode: str, source: Path, folder: Path, threads: int, largest: int, weights: int) -> None:
    file, back = folder / "a.terse", folder / "back.safetensors"
    size = source.stat().st_size
    with Watch() as watch:
        found = pack(source, file, MODES[mode], threads=threads)
    each = 8 * found.bytes / weights
    shown(f"pack {mode}", watch, size, weights, f"{100 * found.saved:.2f} % saved, {each:.3f} bits a weight", largest)
    with Watch() as watch:
        unpack(file, back, threads=threads)
    shown(f"unpack {mode}", watch, size, weights, "", largest)
    begun = time.perf_counter()
    print(f"{verify(source, file, back, MODES[mode])}, in {time.perf_counter() - begun:.1f} s", flush=True)


def others(source: Path, sample: int, dtype: torch.dtype) -> None:
    with safe_open(source, "pt") as file:
        names = [name for name in file.offset_keys() if name.endswith("weight") and "norm" not in name]
        flat = torch.cat([file.get_tensor(name).reshape(-1) for name in names[:2]])[: sample // dtype.itemsize]
    data = flat.view(torch.uint8).numpy().tobytes()
    rows = flat[: len(flat) // 4096 * 4096].reshape(-1, 4096)
    row(
        "tersenet in memory",
        rows.view(torch.uint8).numpy().tobytes(),
        rows.numel(),
        lambda part: encoded("w", torch.frombuffer(bytearray(part), dtype=dtype).reshape(rows.shape), Precision()),
        lambda entry: next(decoded(entry)).reshape(-1).view(torch.uint8).numpy(),
    )
    for level in (3, 19):
        compress = zstandard.ZstdCompressor(level=level).compress
        part, repeats = (data, 7) if level == 3 else (data[: len(data) // 8], 1)  # slow
        weights = len(flat) * len(part) // len(data)
        row(f"zstd -{level}", part, weights, compress, zstandard.decompress, repeats)
    try:
        from zipnn import ZipNN
    except ImportError:
        print("ZipNN is not installed (pip install zipnn)")
        return
    name = str(dtype).removeprefix("torch.")
    zipnn = ZipNN(bytearray_dtype=name, input_format="byte", threads=1)
    row("ZipNN", data, len(flat), lambda part: bytes(zipnn.compress(bytearray(part))), zipnn.decompress)


def row(
    name: str,
    data: bytes,
    weights: int,
    compress: Callable[[bytes], Any],
    decompress: Callable[[Any], Any],
    repeats: int = 7,
) -> None:
    packed, watch = fastest(lambda: compress(data), repeats)
    size = len(packed) if isinstance(packed, bytes) else sum(map(len, packed.payloads))
    shown(name, watch, len(data), weights, f"{100 * (1 - size / len(data)):.2f} % saved")
    back, watch = fastest(lambda: decompress(packed), repeats)
    assert bytes(back) == data
    shown(f"{name} back", watch, len(data), weights, "bit for bit")


def fastest(action: Callable[[], Any], repeats: int) -> tuple[Any, Watch]:
    """The result, and the watch of the run that took the processor least time."""
    watches = []
    for _ in range(repeats):
        with Watch() as watch:
            found = action()
        watches.append(watch)
    return found, min(watches, key=lambda watch: watch.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--others", action="store_true", help="zstandard and ZipNN, too")
    parser.add_argument("--sample", type=int, default=64, help="megabytes that the others get")
    parser.add_argument("--folder", help="where the files go; default: a temporary folder")
    options = parser.parse_args()
    dtype: torch.dtype = getattr(torch, options.dtype)
    made = shapes(int(options.millions * 1e6))
    counts = {name: torch.Size(shape).numel() for name, shape in made.items()}
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        source = folder / "in.safetensors"
        layout = {name: (options.dtype, shape, counts[name] * dtype.itemsize) for name, shape in made.items()}
        write_safetensors(source, layout, tensors(made, dtype), {})
        weights, largest = sum(counts.values()), max(counts.values()) * dtype.itemsize
        print(f"{weights / 1e6:.0f} million weights, {options.dtype}, largest {largest / 1e6:.0f} MB", flush=True)
        warm = {"warm.weight": (options.dtype, (512, 2048), (1 << 20) * dtype.itemsize)}
        write_safetensors(folder / "warm.safetensors", warm, tensors({"warm.weight": (512, 2048)}, dtype), {})
        for mode in options.modes:
            pack(folder / "warm.safetensors", folder / "warm.terse", MODES[mode])
            unpack(folder / "warm.terse", folder / "warm.safetensors.back", force=True)
            ours(mode, source, folder, options.threads, largest, weights)
        if options.others:
            others(source, options.sample << 20, dtype)


if __name__ == "__main__":
    main()
