"""Time of MobileNet by width and resolution, beside the widest and finest, in one run.

    pip install -c constraints.txt onnx onnxruntime onnxscript
    python benchmarks/compact_latency.py [--batches 1 64] [--threads 2] [--json] > docs/results/compact_latency.md

The nets of table `compact` (32×32 images) with random weights, since time does not depend on them, exported to ONNX and
run by ONNX Runtime call by call in turn, so that noise hits all; the figure is the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from typing import Any

import torch
from pruned_latency import milliseconds, session

from tersenet.core.recipe import ModelSpec
from tersenet.flow.measuring import machine
from tersenet.measure.macs import count_macs
from tersenet.models import build

WIDTHS, RESOLUTIONS = (1.0, 0.5, 0.25), (1.0, 0.75, 0.5)
ROUNDS = 31


def compare(batch: int, threads: int) -> list[dict[str, Any]]:
    example, rows = torch.randn(batch, 3, 32, 32), []
    for width in WIDTHS:
        for resolution in RESOLUTIONS:
            options = {"image": 32, "classes": 10, "width": width, "resolution": resolution}
            model = build(ModelSpec.parse({"name": "mobilenet_v1", "kwargs": options}), 0).eval()
            ready = session(model, example, threads)
            macs = count_macs(model, example[:1]).total
            feed = {ready.get_inputs()[0].name: example.numpy()}
            with torch.no_grad():
                assert torch.allclose(torch.from_numpy(ready.run(None, feed)[0]), model(example), rtol=1e-3, atol=1e-3)
            rows.append({"width": width, "side": round(32 * resolution), "macs": macs, "run": (ready, feed)})
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(ROUNDS):
        for row, found in zip(rows, times, strict=True):
            ready, feed = row["run"]
            found.append(milliseconds(lambda ready=ready, feed=feed: ready.run(None, feed)))
    medians = [statistics.median(found) for found in times]
    return [
        {
            "batch": batch,
            **{key: row[key] for key in ("width", "side", "macs")},
            "ms": median,
            "faster": medians[0] / median,
            "fewer_macs": rows[0]["macs"] / row["macs"],
        }
        for row, median in zip(rows, medians, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for batch in options.batches for row in compare(batch, options.threads)]
    if options.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1))
        return
    print("# Time of MobileNet by width and resolution\n")
    print(
        f"Written by `python benchmarks/compact_latency.py`: 32×32 images, ONNX Runtime, {options.threads} threads,\n"
        f"random weights, medians of {ROUNDS} calls in turn. Machine: {machine(torch.device('cpu'))}.\n"
        "Errors and bytes of these nets: [compact.md](compact.md).\n"
    )
    print("| batch | α | side | MACs | time | times as fast | times fewer MACs |")
    print(f"|{' --- |' * 7}")
    for row in rows:
        print(
            f"| {row['batch']} | {row['width']:g} | {row['side']} | {row['macs'] / 1e6:.1f} M | {row['ms']:.2f} ms "
            f"| {row['faster']:.2f} | {row['fewer_macs']:.2f} |"
        )


if __name__ == "__main__":
    main()
