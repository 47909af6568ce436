"""Sizes of binary, ternary and 4-bit VGG-11 files against the net in fp32, on disk, with all that is in them.

    python benchmarks/file_sizes.py > docs/results/file_sizes.md
    python benchmarks/file_sizes.py WEIGHTS.pt > ...   # a state dict of the zoo's vgg11_bn that has been trained

Without a state dict weights are as they are drawn before training, which is the hardest case: signs are coin tosses.
Biases, norms and their statistics are noise then, as they would otherwise take next to nothing.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersenet.core.recipe import ModelSpec
from tersenet.core.stage import parse_stage
from tersenet.flow.load import load
from tersenet.flow.pack import save
from tersenet.flow.plan import DryContext
from tersenet.flow.prepare import register_methods
from tersenet.forms import form_of, match, weight_of
from tersenet.models import build

ENDS = ("features.0", "classifier")
"""The first and the last layer, which most papers leave real."""


@dataclass(frozen=True)
class Row:
    """wanted: how many times smaller than the fp32 file."""

    name: str
    wanted: float
    options: dict[str, Any]


ROWS = (
    Row("binary, ±1", 30, {"method": "quantize.binary", "scale": "none"}),
    Row("binary, ±α of each filter", 30, {"method": "quantize.binary"}),
    Row("ternary, ±α", 18, {"method": "quantize.ternary", "values": "fixed"}),
    Row("ternary, two values", 18, {"method": "quantize.ternary"}),
    Row("ternary, two values of each filter", 18, {"method": "quantize.ternary", "scale": "filter"}),
    Row("4 bits, a step for each filter", 7.5, {"method": "quantize.uniform", "bits": 4}),
    Row("4 bits, one step", 7.5, {"method": "quantize.uniform", "bits": 4, "per": "tensor"}),
    Row("4 bits, full range", 7.5, {"method": "quantize.uniform", "bits": 4, "range": "minmax"}),
)

HEAD = """# File sizes of VGG-11 at one, two and four bits

Written by `python benchmarks/file_sizes.py`. The zoo's `vgg11_bn` for ten classes, whose weights {weights}.
The fp32 file is what `torch.save` writes of its state dict, {dense:,} bytes. The `.terse` files hold
everything that the net needs: quantized weights, their scales, real layers in fp32, biases, norms and statistics in
fp16, header and digests. Each was read back, and its weights are bit for bit those that the net computes with.
*Bits*: of a quantized weight in the file, with its scales.

| weights | first and last layer | bytes | bits | fp32 file over it | wanted | |
| --- | --- | --- | --- | --- | --- | --- |"""


def fresh() -> nn.Module:
    return build(ModelSpec.parse({"name": "vgg11_bn"}), 0)


@torch.no_grad()
def dense(path: str | None) -> nn.Module:
    model = fresh()
    if path is not None:
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        norm = isinstance(module, nn.BatchNorm2d)
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.is_floating_point() and (norm or name == "bias"):
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.exp() if name in ("weight", "running_var") else noise)
    return model.eval()


def measured(row: Row, ends: bool, path: str | None) -> tuple[int, float]:
    """(bytes of the file, bits of a quantized weight in it). ends: whether first and last layer are quantized too."""
    model = dense(path)
    stage = parse_stage({**row.options, "ignore": () if ends else ENDS})
    model = stage.apply(model, DryContext(seed=0, dry=False))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.terse"
        ledger = save(model, file)
        size, back = file.stat().st_size, load(file, fresh())
    for ours, theirs in zip(match(model), match(back), strict=True):
        if not torch.equal(weight_of(ours), weight_of(theirs)):
            raise SystemExit(f"{row.name}: the file does not give {ours.name} back")
    small = {target.name for target in match(model) if form_of(target) is not None}
    parts = [part for part in ledger.rows if part.name in small]
    numbers = sum(weight_of(target).numel() for target in match(model) if target.name in small)
    return size, 8 * sum(part.bytes for part in parts) / numbers


def fp32_bytes(path: str | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt"
        torch.save(dense(path).state_dict(), file)
        return file.stat().st_size


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else None
    register_methods()
    large = fp32_bytes(path)
    drawn = "are as drawn before\ntraining, the hardest case (signs are coin tosses); norms and biases are noise"
    print(HEAD.format(weights="have been trained" if path else drawn, dense=large))
    for row in ROWS:
        for ends in (False, True):
            size, bits = measured(row, ends, path)
            ratio = large / size
            verdict = "met" if ratio >= row.wanted else "missed"
            place = "quantized" if ends else "real"
            print(
                f"| {row.name} | {place} | {size:,} | {bits:.3f} | {ratio:.2f}× | {row.wanted:g}× | {verdict} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
