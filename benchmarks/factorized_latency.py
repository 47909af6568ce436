"""Time of a convolution beside that of its factors, layer by layer: fewer multiply-accumulates can be slower.

    pip install -c constraints.txt onnx onnxruntime onnxscript
    python benchmarks/factorized_latency.py [--model vgg11_bn] [--layers 0 4] [--share 0.25] [--batches 1 16] \\
        [--json] > docs/results/factorized_latency.md

Every convolution becomes factors of `--share` of its parameters, and both are run by torch and by ONNX Runtime, call by
call in turn, so that noise hits both; of each the fastest call counts, which a busy machine disturbs least. Weights are
random, since time does not depend on them. `--engines torch` needs no ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from itertools import product
from typing import Any

import torch
from pruned_latency import milliseconds, session
from torch import nn

from tersenet.core.recipe import ModelSpec
from tersenet.factorize.layers import cost, dense_cost
from tersenet.factorize.ranks import by_parameters
from tersenet.flow.measuring import machine
from tersenet.graph.factors import factored, largest, obstacle, shape_of, spelt
from tersenet.models import build
from tersenet.models.zoo import input_shape

KINDS = ("svd", "spatial", "cp", "tucker")


def layers(name: str) -> Iterator[tuple[str, nn.Conv2d, torch.Size]]:
    """The convolutions of a model and the shape of one example that each is given."""
    model, found = build(ModelSpec.parse({"name": name}), 0).eval(), []
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, args, _, path=path: found.append((path, m, args[0].shape[1:])))
    with torch.no_grad():
        model(torch.zeros(1, *input_shape(name)))
    for _, module, _ in found:
        module._forward_hooks.clear()
    yield from found


def rounds(calls: list[Callable[[], Any]], times: int) -> list[float]:
    """Milliseconds of the fastest call of each, called in turn; the first round warms up."""
    taken = [[milliseconds(call) for call in calls] for _ in range(times + 1)][1:]
    return [min(column) for column in zip(*taken, strict=True)]


def onnx_call(model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], Any]:
    ready = session(model, example, threads)
    return partial(ready.run, None, {ready.get_inputs()[0].name: example.numpy()})


def compare(
    path: str, layer: nn.Conv2d, kind: str, shape: torch.Size, batch: int, options: Any
) -> dict[str, Any] | None:
    """One row, or None where no factors are so small."""
    if obstacle(layer, kind) is not None:
        return None
    given = torch.empty(1, *shape, device="meta")
    dense = dense_cost(layer, given)
    ranks = by_parameters(
        options.share,
        largest(kind, shape_of(layer)),
        lambda ranks: cost(layer, kind, ranks, None).parameters,
        dense.parameters,
    )
    if ranks is None:
        return None
    small, factors, example = cost(layer, kind, ranks, given), factored(layer, kind, ranks), torch.randn(batch, *shape)
    for factor in factors:
        nn.init.normal_(factor.weight, std=0.01)  # type: ignore[arg-type]
    times = {}
    if "torch" in options.engines:
        with torch.no_grad():
            times["torch"] = rounds([partial(layer, example), partial(factors, example)], options.rounds)
    if "onnxruntime" in options.engines:
        calls = [onnx_call(model, example, options.threads) for model in (layer, factors)]
        times["onnxruntime"] = rounds(calls, options.rounds)
    return {
        "layer": path,
        "kind": kind,
        "ranks": spelt(ranks),
        "batch": batch,
        "macs_ratio": (dense.macs or 0) / (small.macs or 1),
        "times_ms": times,
        "faster": {engine: before / after for engine, (before, after) in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="vgg11_bn")
    parser.add_argument("--layers", nargs="+", help="shell patterns on their names; all without")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=("channel", *KINDS))
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=["torch", "onnxruntime"], choices=["torch", "onnxruntime"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.json:
        head(options)
    rows = []
    for path, layer, shape in layers(options.model):
        for kind, batch in product(options.kinds, options.batches):
            if options.layers and not any(fnmatch(path, pattern) for pattern in options.layers):
                continue
            if (row := compare(path, layer, kind, shape, batch, options)) is not None:
                rows.append(row)
                if not options.json:
                    print(line(row), flush=True)
    if options.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1))


def head(options: Any) -> None:
    print(f"# Time of the factors of {options.model}, layer by layer\n")
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    print(
        f"Written by `python benchmarks/factorized_latency.py`: factors of {options.share:.0%} of a layer's\n"
        f"parameters beside the layer, {threads}, fastest of {options.rounds} calls in turn, random weights. Machine:\n"
        f"{machine(torch.device('cpu'))}. A ratio below 1 means that the factors are slower.\n"
    )
    columns = [f"{engine}, ms | times as fast" for engine in options.engines]
    print(f"| layer | factors | ranks | batch | times fewer MACs | {' | '.join(columns)} |")
    print(f"|{' --- |' * (5 + 2 * len(columns))}")


def line(row: dict[str, Any]) -> str:
    times = [f"{before:.2f} → {after:.2f} | {before / after:.2f}" for before, after in row["times_ms"].values()]
    start = [row["layer"], row["kind"], row["ranks"], str(row["batch"]), f"{row['macs_ratio']:.2f}"]
    return f"| {' | '.join([*start, *times])} |"


if __name__ == "__main__":
    main()
