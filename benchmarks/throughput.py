"""Quantize, code and write a large model, and read it back: seconds and peak memory of each part.

    python benchmarks/throughput.py [--millions 100] [--bits 4] [--range minmax]

The model is a row of 4096 × 4096 linear layers with Gaussian weights, whose deviations differ from layer to layer. Each
part's peak is that of the process's resident memory, above what it was before the model was made.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import tersenet
from tersenet.core.stage import Stage, parse_stage
from tersenet.flow.prepare import register_methods

WIDTH = 4096


class Nothing:
    """A run context for stages that need no data."""

    seed, dry = 0, False

    def note(self, sentence: str) -> None:
        print(f"note: {sentence}")


def model(parameters: int) -> nn.Module:
    torch.manual_seed(0)
    count = max(round(parameters / WIDTH**2), 1)
    layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.normal_(std=0.02 * (1 + number / count))  # type: ignore[union-attr, operator]
    return layers


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak:
    """Highest resident memory while a part runs, sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self.most, self.running = resident(), True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, resident())
            time.sleep(0.005)

    def __exit__(self, *error: object) -> None:
        self.running = False
        self.thread.join()


def part(name: str, work: Callable[[], object], ground: int, size: int) -> float:
    with Peak() as peak:
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    print(f"{name:28} {seconds:7.2f} s   peak {(peak.most - ground) / size:5.2f} × the model", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--range", default="minmax")
    options = parser.parse_args()
    register_methods()
    stage = parse_stage({"method": "quantize.uniform", "bits": options.bits, "range": options.range})
    stage.apply(model(WIDTH**2), Nothing())  # type: ignore[arg-type]
    ground, count = resident(), int(options.millions * 1e6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.terse"
        write(stage, count, path, ground)
        read(count, path, ground)


def write(stage: Stage, count: int, path: Path, ground: int) -> None:
    net = model(count)
    size = 4 * sum(parameter.numel() for parameter in net.parameters())
    print(f"{size / 4e6:.1f} million parameters, {size / 1e6:.0f} MB, {torch.get_num_threads()} threads")
    spent = part("quantize", lambda: stage.apply(net, Nothing()), ground, size)  # type: ignore[arg-type]
    spent += part("code and write", lambda: tersenet.save(net, path), ground, size)
    print(f"{'together':28} {spent:7.2f} s   {path.stat().st_size / 1e6:.1f} MB, {size / path.stat().st_size:.2f} ×")


def read(count: int, path: Path, ground: int) -> None:
    fresh = model(count)
    size = 4 * sum(parameter.numel() for parameter in fresh.parameters())
    part("read back", lambda: tersenet.load(path, model=fresh), ground, size)


if __name__ == "__main__":
    main()
