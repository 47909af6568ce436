"""What it is worth to keep memory that layers free (`tersenet.cli.memory`): inference and training on the CPU.

    python benchmarks/freed_memory.py [--turns 3] [--threads 1]

Each case is computed in a process of its own, in turn with and without, on random images.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import torch

from tersenet.cli.memory import keep_freed
from tersenet.core.recipe import ModelSpec
from tersenet.models import build, input_shape

CASES = {"mobilenet_v1": 32, "resnet50": 8, "vgg16_bn": 128, "resnet20": 128}
"""Images in a batch."""

CALLS = 3


def timed(name: str, trains: bool) -> dict[str, float]:
    """Seconds of a batch, and the peak of memory in bytes."""
    model, x = build(ModelSpec(name=name), 0).train(trains), torch.randn(CASES[name], *input_shape(name))
    seconds = []
    with torch.inference_mode(not trains):
        for _ in range(1 + CALLS):
            begun = time.perf_counter()
            found = model(x)
            if trains:
                found.square().mean().backward()
            seconds.append(time.perf_counter() - begun)
    return {"seconds": median(seconds[1:]), "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        name, kind, way = options.child
        if way == "kept":
            keep_freed()
        print(json.dumps(timed(name, kind == "training")))
        return
    print(f"{options.threads} thread(s), medians of {options.turns} processes each\n")
    print(
        "| network | batch | | as it is, ms | kept, ms | faster | memory |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name, batch in CASES.items():
        for kind in ("inference", "training"):
            runs: dict[str, list[dict[str, float]]] = {"plain": [], "kept": []}
            for _ in range(options.turns):
                for way, found in runs.items():
                    child = [sys.executable, __file__, "--threads", str(options.threads), "--child", name, kind, way]
                    found.append(json.loads(subprocess.run(child, capture_output=True, check=True, text=True).stdout))
            plain, kept = ({key: median(run[key] for run in runs[way]) for key in runs[way][0]} for way in runs)
            times = f"{1e3 * plain['seconds']:.0f} | {1e3 * kept['seconds']:.0f}"
            ratios = f"{plain['seconds'] / kept['seconds']:.2f}× | {kept['bytes'] / plain['bytes']:.2f}×"
            print(f"| {name} | {batch} | {kind} | {times} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
