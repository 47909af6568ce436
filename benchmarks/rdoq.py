"""Rate–distortion-optimised quantization beside rounding to nearest: validation error against the bytes of the file.

    python benchmarks/rdoq.py --data FOLDER [--nets lenet_300_100 lenet5] [--epochs 2] [--models FOLDER]

--data: holds `mnist`. --models: where the trained networks are kept, so that another run need not train them. What was
measured is kept in results/rdoq.json; the page docs/results/rdoq.md and its figure are written from all of that.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tersenet import artifact
from tersenet.core.copying import copied
from tersenet.core.recipe import CodeSpec, DataSpec, ModelSpec, Recipe, Runtime
from tersenet.core.stage import parse_stage
from tersenet.core.training import Training
from tersenet.data import Splits, load_data
from tersenet.flow.bounding import bound_file
from tersenet.flow.context import Context, fabric_for
from tersenet.flow.load import load
from tersenet.flow.pack import contents_of
from tersenet.flow.prepare import register_methods
from tersenet.models import build
from tersenet.train.checkpoint import CheckpointStore

ROOT = Path(__file__).parent.parent
RESULTS, PAGE, FIGURE = ROOT / "results/rdoq.json", ROOT / "docs/results/rdoq.md", ROOT / "docs/results/rdoq.svg"

TRAINING = {
    "lenet_300_100": {"optimizer": "sgd", "lr": 0.1, "l2": 1e-4},
    "lenet5": {"optimizer": "sgd", "lr": 0.02, "l2": 5e-4, "warmup": 0.05, "clip_norm": 2.0},
}
LOW, HIGH = (1e-9, 3e-9, 1e-8, 3e-8), (3e-9, 1e-8, 3e-8, 1e-7)
RDOQ: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "RDOQ": ({"feedback": False}, LOW),
    "RDOQ, feedback": ({}, (1e-9, *HIGH, 3e-7)),
    "RDOQ, feedback, 4 states": ({"states": 4}, HIGH),
    "RDOQ, feedback, 8 states": ({"states": 8}, HIGH),
}
"""Options, and prices per bit: without feedback, the second-order estimate of the harm fails sooner."""

METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "nearest": {
        f"{bits} bits": {"method": "quantize.uniform", "bits": bits, "per": "tensor", "step": "float16"}
        for bits in (2, 3, 4, 5, 6)
    },
    **{
        name: {f"{price:g}": {"method": "quantize.rdoq", "price": price, **options} for price in prices}
        for name, (options, prices) in RDOQ.items()
    },
}
"""Name → setting → stage."""

BOUNDED = ("nearest", "RDOQ")
"""Where each weight's error stands for itself. With feedback errors are made to cancel, which the bound's measure takes
for far more harm than is done: squares, weighted by the diagonal of the Fisher information."""

RISES = (0.001, 0.002, 0.005, 0.01)
"""Of the validation error over that of the dense network, at which bytes are compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nets", nargs="*", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--models", type=Path)
    options = parser.parse_args()
    register_methods()
    splits = load_data(DataSpec(path=str(options.data / "mnist"), validation=5000))
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for net in options.nets:
        measure(net, splits, options, found.setdefault(net, {}), lambda: keep(found))
    keep(found)
    PAGE.write_text(page(found, options.epochs))
    FIGURE.write_bytes(figure(found))


def keep(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def measure(net: str, splits: Splits, options: argparse.Namespace, found: dict[str, Any], kept: Any) -> None:
    """Fill in what is missing of `found`: method → setting → bytes, error, loss, seconds."""
    training = Training(epochs=options.epochs, **TRAINING[net])
    fabric = fabric_for(Runtime(accelerator="cpu", threads=1))
    context = Context(splits, fabric, 0, CheckpointStore(options.models), f"{net}-{options.epochs}", training)
    model = build(ModelSpec(name=net), 0)
    context.enter("train", training.to_dict())
    context.finetune(model, training)
    if "dense" not in found:
        scores = context.evaluate(model)
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        found["dense"] = {"": {"bytes": size, **figures_of(scores), "seconds": 0.0}}
    for method in options.methods:
        for setting, stage in METHODS[method].items():
            known = found.setdefault(method, {}).get(setting)
            if known is not None and ("bound" in known or method not in BOUNDED):
                continue
            found[method][setting] = one(net, model, context, stage, options.data if method in BOUNDED else None)
            kept()
            print(net, method, setting, found[method][setting], flush=True)


def one(net: str, model: nn.Module, context: Context, stage: dict[str, Any], data: Path | None) -> dict[str, float]:
    """Round, write, read back, evaluate; and with `data`, what a file of the best code would take at the same weighted
    error."""
    recipe = Recipe(model={"name": net}, code=CodeSpec(coder="best"))
    context.enter("round", stage)
    start = time.process_time()
    rounded = parse_stage(stage).apply(copied(model), context)
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.terse"
        artifact.write(file, contents_of(rounded, recipe, None), "best")
        scores, size = context.evaluate(load(file)), file.stat().st_size
        bound = {} if data is None else {"bound": bound_of_file(file, model, data)}
    return {"bytes": size, **bound, **figures_of(scores), "seconds": round(seconds, 1)}


def bound_of_file(file: Path, model: nn.Module, data: Path) -> int:
    """Bytes; `model`: with the dense weights."""
    dense = file.with_name("dense.safetensors")
    save_file(model.state_dict(), dense)
    rates = bound_file(file, dense=dense, data=True, overrides=[f"data.path={data / 'mnist'}"]).rates
    assert rates is not None
    return round(file.stat().st_size - rates.written + rates.shannon)


def figures_of(scores: dict[str, float]) -> dict[str, float]:
    return {"error": round(scores["error"], 6), "loss": round(scores["loss"], 6)}


# --- the page -------------------------------------------------------------------------------------------------------

HEAD = """# Rounding for the file, without training

Written by `python benchmarks/rdoq.py --data FOLDER`, from `results/rdoq.json`. LeNet-300-100 and LeNet-5 were
trained on MNIST for {epochs} epochs, one seed, and then rounded without any further training. *nearest*:
`quantize.uniform`, one grid for each weight, the range with the least squared error. *RDOQ*: `quantize.rdoq` at the
price stated, loss per bit, without and with feedback of errors to later columns and biases, and with dependent
quantization of 4 or 8 states besides. All files are coded with `best`; bytes are those of the whole file, biases in
float16 included, and errors those of the model read back from it, on the 5,000 validation images (one image is 0.02 %).
*bound*: bytes of the file if its weights were coded by the best code there can be for the dense weights at the same
error, weighted by Fisher information (rate-distortion, ../BOUNDS.md); other weights may do as well with less, as
those do that feedback finds, whose errors cancel: there that measure, and so the bound, says nothing.
Calibration: 4,096 training images. Seconds are of one core's time, which other work had to share.

The estimate of the harm is of second order, and each layer's is taken alone. Without feedback, what layers do together
goes far beyond it, so that prices must be lower there. Dependent quantization pays where most entries are not zero: of
independent normal numbers, 8 states come to within 0.5 dB of the rate–distortion function at 4 bits each, where single
steps are 1.5 dB away, and to 0.8 instead of 1.4 dB at 2.4 bits; at half a bit, about what these files take, nothing is
left of it. (The first of these are held by `tests/quantize/test_rdoq_search.py`.)
"""


def page(found: dict[str, Any], epochs: int) -> str:
    lines = [HEAD.format(epochs=epochs)]
    lines += ["![Error against bytes](rdoq.svg)", ""]
    for net, methods in found.items():
        dense = methods["dense"][""]
        lines += [f"## {net}", f"Dense: {dense['bytes']:,} bytes, {100 * dense['error']:.2f} % validation error.", ""]
        lines += equal_error(methods, dense["error"])
        lines += ["| method | setting | bytes | bound | × | error, % | loss | s |", "|---" * 8 + "|"]
        for method in METHODS:
            rows = sorted(methods.get(method, {}).items(), key=lambda pair: -pair[1]["bytes"])
            for setting, row in rows:
                lines.append(
                    f"| {method} | {setting} | {row['bytes']:,} | {bound_of(method, row)} | "
                    f"{dense['bytes'] / row['bytes']:.0f} | {100 * row['error']:.2f} | {row['loss']:.4f} | "
                    f"{row['seconds']:.1f} |"
                )
        lines.append("")
    return "\n".join(lines)


def bound_of(method: str, row: dict[str, float]) -> str:
    return f"{row['bound']:,}" if method in BOUNDED else "–"


def equal_error(methods: dict[str, Any], dense: float) -> list[str]:
    """A table of bytes at equal error, interpolated between the files of a method."""
    lines = ["Bytes at equal error, in logarithms between a method's neighbouring files, and what they are less than"]
    lines += [
        "those of *nearest*:",
        "",
        "| error, % | " + " | ".join(METHODS) + " |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for rise in RISES:
        sizes = {name: bytes_at(methods.get(name, {}), dense + rise) for name in METHODS}
        nearest = sizes["nearest"]
        cells = [
            "–" if size is None
            else f"{size:,.0f}" + (f" ({100 * (size / nearest - 1):+.0f} %)" if nearest and name != "nearest" else "")
            for name, size in sizes.items()
        ]  # fmt: skip
        lines.append(f"| {100 * (dense + rise):.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def bytes_at(rows: dict[str, dict[str, float]], error: float) -> float | None:
    """The least bytes at which a method gets down to `error`; None where none of its files does, or all of them do."""
    best: list[tuple[float, float]] = []  # from large files to small ones, errors rising
    for size, value in sorted(((row["bytes"], row["error"]) for row in rows.values()), reverse=True):
        best = [(s, e) for s, e in best if e < value] + [(size, value)]
    for (large, low), (small, high) in itertools.pairwise(best):
        if low <= error < high:
            share = (error - low) / (high - low)
            return float(np.exp(np.log(large) + share * (np.log(small) - np.log(large))))
    return None


def figure(found: dict[str, Any]) -> bytes:
    """An SVG, the same bytes for the same figures."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "tersenet", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(10, 4.5), layout="constrained")
        for axes, (net, methods) in zip(drawing.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            dense = 100 * methods["dense"][""]["error"]
            for method in METHODS:
                spots = sorted((row["bytes"], 100 * row["error"]) for row in methods.get(method, {}).values())
                if spots:
                    axes.plot(*zip(*spots, strict=True), "o-", markersize=4, linewidth=1.2, label=method)
            for number, method in enumerate(BOUNDED):  # the first of METHODS
                spots = sorted((row["bound"], 100 * row["error"]) for row in methods.get(method, {}).values())
                if spots:
                    style = {"color": f"C{number}", "markersize": 3, "linewidth": 0.8}
                    axes.plot(*zip(*spots, strict=True), ".:", label=f"bound of {method}", **style)
            axes.axhline(dense, color="0.5", linestyle="--", linewidth=0.8, label="dense")
            axes.set(xscale="log", xlabel="bytes of the file", ylabel="validation error, %", title=net)
            axes.set_ylim(0, dense + 4)
            axes.grid(alpha=0.3, which="both", linewidth=0.5)
            axes.legend(fontsize=7)
        text = io.BytesIO()
        drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
