"""How large exported files are: each way of storing weights beside dense fp32 in the same format.

    python benchmarks/exported_sizes.py > docs/results/exported_sizes.md

Weights are untrained: what a file takes depends on the form of the weights and not on their values, since neither ONNX
nor OpenVINO codes them. The page is the same on every machine with these versions of the exporters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tersenet.core.recipe import ModelSpec
from tersenet.forms import Binary, Shared, Target, Ternary, Uniform, attach, match, weight_of
from tersenet.forms.inputs import LAYERS, InputGrid, install
from tersenet.models import build
from tersenet.quantize.ranges import grid
from tersenet.runtime.export import export

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


def network(name: str, form: str, inputs: bool) -> nn.Module:
    model = build(ModelSpec.parse({"name": name}), 0).eval()
    if form != "dense":
        for target in match(model, (), ()):
            FORMS[form](target)
    for layer in [module for module in model.modules() if inputs and isinstance(module, LAYERS)]:
        install(layer, InputGrid(0.05, -128, 256))
    return model


def size(name: str, form: str, ending: str, inputs: bool = False) -> int:
    """Bytes of all files of the format."""
    torch.manual_seed(0)
    example = (torch.randn(2, *NETWORKS[name]),)
    with tempfile.TemporaryDirectory() as folder:
        return export(network(name, form, inputs), example, Path(folder) / f"model{ending}").bytes


def main() -> None:
    print("# Sizes of exported files\n")
    print("Written by `python benchmarks/exported_sizes.py`. Weights are untrained: the formats do not code them, so")
    print(
        "sizes do not depend on their values. Batch norms are multiplied into the layers before them; what is left of"
    )
    print(
        "them, the biases and the scales of channels, has four bytes a number. *int8, inputs too*: layers' inputs are"
    )
    print("rounded as well, which takes operators. Percentages are of dense fp32 in the same format. ONNX: ternary,")
    print("binary and 16 shared values lie 5, 8 and 2 to a byte and are taken apart when a runtime loads the file;")
    print("OpenVINO would store them taken apart, so there they have 4 bits, and shared values are dense.\n")
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
