"""How large exported files are: each way of storing weights beside dense fp32 in the same format.

    python benchmarks/exported_sizes.py > docs/results/exported_sizes.md

Weights are untrained: what a file takes depends on the form of the weights and not on their values, since neither ONNX
nor OpenVINO codes them. The page is the same on every machine with these versions of the exporters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersenet.core.recipe import ModelSpec
from tersenet.forms import Binary, Shared, Target, Ternary, Uniform, attach, match, weight_of
from tersenet.models import build
from tersenet.quantize.int8 import Int8
from tersenet.quantize.ranges import grid
from tersenet.runtime.export import export

ABOUT = """\
Written by `python benchmarks/exported_sizes.py`. Weights are untrained: the formats do not code them, so sizes do not
depend on their values. Batch norms are multiplied into the layers before them; what is left of them, the biases and the
scales of channels, has four bytes a number. *int8, inputs too*: by `quantize.int8`, which rounds what layers read and
residual sums add up as well; that takes operators. Percentages are of dense fp32 in the same format.

ONNX: ternary, binary and 16 shared values lie 5, 8 and 2 to a byte and are taken apart when a runtime loads the file.
OpenVINO would store them taken apart, so there ternary and binary have 4 bits, and shared values are dense; its `.xml`
of operators is text, which small networks feel.
"""

NETWORKS = {"lenet5": (1, 28, 28), "resnet20": (3, 32, 32), "vgg11_bn": (3, 32, 32)}


def uniform(bits: int) -> Callable[[Target], None]:
    """Symmetric steps for each output channel."""

    def put(target: Target) -> None:
        step, low = grid(weight_of(target).flatten(1), bits, "symmetric", "minmax")
        attach(target, Uniform(step, low, 2**bits, axis=0))

    return put


def shared(values: int) -> Callable[[Target], None]:
    """One codebook for each layer."""

    def put(target: Target) -> None:
        weight = weight_of(target)
        cuts = torch.linspace(float(weight.min()), float(weight.max()), values - 1)
        attach(target, Shared(torch.bucketize(weight, cuts), values, zero=False))

    return put


FORMS: dict[str, Callable[[Target], None]] = {
    "int8": uniform(8),
    "int4": uniform(4),
    "shared, 256 values": shared(256),
    "shared, 16 values": shared(16),
    "ternary": lambda target: attach(target, Ternary(weight_of(target).shape)),
    "binary": lambda target: attach(target, Binary(weight_of(target).shape, scaled=True, axis=0)),
}


class Calibration:
    """One batch of noise, all that `quantize.int8` asks of a run where it has no choice to make."""

    dry = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.inputs = (torch.randn(16, *shape, generator=self.generator()),)

    def batches(self, *_: Any) -> Iterator[tuple[tuple[torch.Tensor, ...], None]]:
        yield self.inputs, None

    def generator(self, *_: Any) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def note(self, sentence: str) -> None:
        raise AssertionError(sentence)


def network(name: str, form: str, rounded: bool) -> nn.Module:
    model = build(ModelSpec.parse({"name": name}), 0).eval()
    if rounded:
        stage = Int8(ranges=("minmax",), bias_correction=False)
        return stage.apply(model, Calibration(NETWORKS[name]))  # type: ignore[arg-type]
    if form != "dense":
        for target in match(model, (), ()):
            FORMS[form](target)
    return model


def size(name: str, form: str, ending: str, rounded: bool = False) -> int:
    """Bytes of all files of the format."""
    torch.manual_seed(0)
    example = (torch.randn(2, *NETWORKS[name]),)
    with tempfile.TemporaryDirectory() as folder:
        return export(network(name, form, rounded), example, Path(folder) / f"model{ending}").bytes


def main() -> None:
    print("# Sizes of exported files\n")
    print(ABOUT)
    for ending, title in ((".onnx", "ONNX"), (".xml", "OpenVINO (.xml and .bin)")):
        print(f"## {title}\n")
        print(f"| weights | {' | '.join(NETWORKS)} |")
        print("| --- |" + " --- |" * len(NETWORKS))
        dense = {name: size(name, "dense", ending) for name in NETWORKS}
        print("| dense fp32 | " + " | ".join(f"{dense[name]:,}" for name in NETWORKS) + " |", flush=True)
        for form in ("int8, inputs too", *FORMS):
            whole = {name: size(name, form.split(", inputs")[0], ending, "inputs" in form) for name in NETWORKS}
            cells = (f"{whole[name]:,} ({whole[name] / dense[name]:.1%})" for name in NETWORKS)
            print(f"| {form} | {' | '.join(cells)} |", flush=True)
        print()


main()
