"""Time that removed channels save: the exported graph of the smaller network beside that of the dense one, in one run.

    pip install -c constraints.txt onnx onnxruntime onnxscript
    python benchmarks/pruned_latency.py [MODEL …] [--share 0.5] [--batches 1 64] [--threads 2] [--json]

Both are exported to ONNX and run by ONNX Runtime, call by call in turn, so that noise hits both; the figure is the
ratio of medians. Half of the units of every group of channels are removed; weights are random, since time does not
depend on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from tersenet.core.recipe import ModelSpec
from tersenet.graph import ChannelGraph, remove
from tersenet.measure.macs import count_macs
from tersenet.models import build
from tersenet.models.zoo import input_shape

ROUNDS = 31


def session(model: torch.nn.Module, example: torch.Tensor, threads: int) -> Any:
    """An ONNX Runtime session of `model`, for batches of the size of `example`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which would slow the session called next
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model.eval(), (example,), str(path), dynamo=True, verbose=False, external_data=False)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begun)


def compare(name: str, share: float, batch: int, threads: int) -> dict[str, Any]:
    dense = build(ModelSpec.parse({"name": name}), 0).eval()
    small, example = copy.deepcopy(dense), torch.randn(batch, *input_shape(name))
    graph = ChannelGraph(small, example[:1])
    remove(small, graph, {g.name: range(int(g.units * share)) for g in graph if g.prunable})
    runs = []
    for model in (dense, small):
        ready = session(model, example, threads)
        feed = {ready.get_inputs()[0].name: example.numpy()}
        runs.append((ready, feed))
        with torch.no_grad():
            expected = model(example)
        found = torch.from_numpy(ready.run(None, feed)[0])
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for (ready, feed), row in zip(runs, times, strict=True):
            row.append(milliseconds(lambda ready=ready, feed=feed: ready.run(None, feed)))
    before, after = (statistics.median(row) for row in times)
    macs = [count_macs(model, example[:1]).total for model in (dense, small)]
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "dense_ms": before,
        "pruned_ms": after,
        "ratio": before / after,
        "macs_ratio": macs[0] / macs[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=["vgg16_cifar", "resnet56", "densenet40"])
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [compare(m, options.share, b, options.threads) for m in options.models for b in options.batches]
    if options.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1))
        return
    print(f"ONNX Runtime, {options.threads} threads, {options.share:.0%} of every group removed, median of {ROUNDS}")
    print(f"{'model':14} {'batch':>5} {'dense':>10} {'pruned':>10} {'faster':>7} {'fewer MACs':>11}")
    for row in rows:
        print(
            f"{row['model']:14} {row['batch']:>5} {row['dense_ms']:>7.2f} ms {row['pruned_ms']:>7.2f} ms "
            f"{row['ratio']:>6.2f}× {row['macs_ratio']:>10.2f}×"
        )


if __name__ == "__main__":
    main()
