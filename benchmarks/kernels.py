"""Kernels on the compressed form beside dense float32, ONNX Runtime and sparse libraries, in one run.

    pip install -c constraints.txt scipy onnx onnxruntime
    python benchmarks/kernels.py [SECTION …] [--threads 2] [--seconds 1.5] [--rounds 7] [--results results/kernels.json]

Sections: eie, xnor, lookup, semi, gpu, lowered, lowered_alexnet, sweep, compile; all of them without a name. Where
PyTorch sees no GPU, gpu says so and measures nothing. Call by call in turn, so that noise hits all; figures are
medians, and ratios those of medians within a row. With one thread, time is that which the processor spent on the
calling thread, so that a machine that others use too can be measured. Weights are random. What is measured goes into
the results, and docs/results/kernels.md and its plot are written from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from kernels_gpu import semi_on_gpu
from kernels_page import DENSE, OURS, Row, write
from kernels_rivals import convolution, linear, onnx, sparse_libraries
from sections import Calls, Effort, in_new_processes, interleaved, main
from torch import nn

from tersenet.models.bnn import NormedMLP, Sign
from tersenet.runtime.binary_net import compile_binary
from tersenet.runtime.kernels.eie import pack_columns
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.levels import Levels
from tersenet.runtime.kernels.lookup import BinMatrix, LookupMatrix, pack_lookup
from tersenet.runtime.kernels.lowered import pack_lowered
from tersenet.runtime.kernels.semi_structured import pack_semi_structured
from tersenet.runtime.kernels.xnor import pack_signs
from tersenet.runtime.kernels.xnor_conv import pack_sign_filters

ALEXNET = {"fc6": (4096, 9216, 0.09, 0.35), "fc7": (4096, 4096, 0.09, 0.35), "fc8": (1000, 4096, 0.25, 0.38)}
"""Rows, columns, density of weights (Deep Compression, table 4) and of activations (EIE, table III)."""
SSL = {  # Wen et al. 2016, tables 1 and 2: filters left of conv1 and conv2, shapes left, published speed-ups
    "LeNet 2": ((5, 25, 1.64), (19, 100, 5.23)),
    "LeNet 3": ((3, 25, 1.99), (12, 75, 7.44)),
    "LeNet 4": ((2, 21, 2.33), (50, 41, 6.93)),
    "LeNet 5": ((1, 7, 5.19), (50, 14, 10.82)),
}
SSL_ALEXNET = {  # Wen et al. 2016, table 4, row 2: shares of filters and of shapes left, published speed-up on a CPU
    "conv1": ((96, 3, 11, 11), 227, Geometry((11, 11), (4, 4)), 0.906, 1.0, 1.05),
    "conv2": ((128, 48, 5, 5), 27, Geometry((5, 5), padding=(2, 2)), 0.871, 0.368, 3.37),
    "conv3": ((384, 256, 3, 3), 13, Geometry((3, 3), padding=(1, 1)), 0.594, 0.231, 6.27),
    "conv4": ((192, 192, 3, 3), 13, Geometry((3, 3), padding=(1, 1)), 0.531, 0.153, 9.73),
    "conv5": ((128, 192, 3, 3), 13, Geometry((3, 3), padding=(1, 1)), 1.0, 0.193, 4.93),
}
"""Shape, side of the image and geometry; of conv2, conv4 and conv5 one of the two groups, which are alike."""
rng = np.random.default_rng(0)


def row(section: str, case: str, calls: Calls, effort: Effort, **more: Any) -> Row:
    """A measured row, after all calls were found to give the same."""
    expected = np.asarray(calls[DENSE]())
    for name, call in calls.items():
        found = np.asarray(call()).reshape(expected.shape)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()), (case, name)
    return Row(section, case, interleaved(calls, effort), **more)


def sparse(rows: int, columns: int, density: float, active: float, batch: int) -> tuple[Levels, np.ndarray, np.ndarray]:
    """Weights of 15 values and zero, the same as a dense matrix, and inputs."""
    index = (rng.random(rows * columns, np.float32) < density).astype(np.int32)
    index[index > 0] = rng.integers(1, 16, int(index.sum()))
    book = np.r_[0, rng.standard_normal(15)].astype(np.float32)
    x = np.where(rng.random((batch, columns)) < active, rng.standard_normal((batch, columns)), 0).astype(np.float32)
    return Levels(index, book, rows, columns), book[index].reshape(rows, columns), x


def eie(effort: Effort) -> Iterator[Row]:
    totals: dict[int, dict[str, float]] = {1: {}, 4: {}}
    for name, (rows, columns, density, active) in ALEXNET.items():
        held, weight, inputs = sparse(rows, columns, density, active, 4)
        kernel = pack_columns(held)
        for batch, total in totals.items():
            x = inputs[:batch]
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x)}
            case = f"{name} {columns}→{rows}, weights {density:.0%}, activations {active:.0%}"
            bytes_ = (kernel.bytes, weight.nbytes)
            found = row("eie", case, {**calls, **sparse_libraries(weight, x)}, effort, batch=batch, bytes=bytes_)
            for rival, ms in found.ms.items():
                total[rival] = total.get(rival, 0) + ms
            yield found
    for batch, total in totals.items():
        yield Row("eie", "fc6 + fc7 + fc8", total, batch=batch)


def xnor(effort: Effort) -> Iterator[Row]:
    for batch in (1, 64):
        weight, x = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in ((4096, 4096), (batch, 4096)))
        kernel = pack_signs(weight)
        calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x)}
        yield row("xnor", "linear 4096→4096", calls, effort, batch=batch, bytes=(kernel.bytes, weight.nbytes))
    for batch in (1, 16):
        shapes = ((256, 256, 3, 3), (batch, 256, 14, 14))
        weight, x = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in shapes)
        kernel = pack_sign_filters(weight, Geometry((3, 3)))
        calls = {OURS: lambda k=kernel, x=x: k(x), **convolution(weight, x), **onnx("Conv", weight, x)}
        bytes_ = (kernel.bytes, weight.nbytes)
        yield row("xnor", "convolution 3×3, 256→256, 14×14", calls, effort, batch=batch, bytes=bytes_)
    yield from network(effort)


def network(effort: Effort) -> Iterator[Row]:
    model = NormedMLP(784, (4096, 4096, 4096), 10, Sign).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_(0, 20)
            layer.running_var.fill_(4000)
    compiled = compile_binary(model)
    for batch in (1, 64):
        x = (rng.integers(0, 256, (batch, 1, 28, 28)) / 256).astype(np.float32)
        images = torch.from_numpy(x)
        calls = {OURS: lambda x=x: compiled(x), DENSE: lambda images=images: model(images)}
        assert np.array_equal(calls[OURS](), calls[DENSE]())
        yield row("xnor", "network 784→4096→4096→4096→10, outputs equal bit for bit", calls, effort, batch=batch)


def lookup(effort: Effort) -> Iterator[Row]:
    inputs = LookupMatrix(_codes(512, 4096), _books(512), 4096)
    outputs = BinMatrix(_codes(4096, 512), _books(512))
    book = np.r_[0, rng.standard_normal(16)].astype(np.float32)
    shared = pack_lookup(Levels(rng.integers(1, 17, 4096**2, np.int32), book, 4096, 4096))
    cases = {
        "product along inputs, pieces of 8, 256 centroids": (inputs, _joined_inputs(inputs)),
        "product along outputs, pieces of 8, 256 centroids": (outputs, _joined_outputs(outputs)),
        "16 shared values, no zeros": (shared, _joined_inputs(shared)),
    }
    for case, (kernel, weight) in cases.items():
        for batch in (1, 64):
            x = rng.standard_normal((batch, 4096)).astype(np.float32)
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x)}
            bytes_ = (kernel.bytes, weight.nbytes)
            yield row("lookup", f"4096→4096, {case}", calls, effort, batch=batch, bytes=bytes_)


def _codes(*shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def _books(count: int) -> np.ndarray:
    return rng.standard_normal((count, 256, 8)).astype(np.float32)


def _joined_inputs(kernel: LookupMatrix) -> np.ndarray:
    books = np.broadcast_to(kernel.books, (len(kernel.index), *kernel.books.shape[1:]))
    pieces = [book[codes] for book, codes in zip(books, kernel.index, strict=True)]
    return np.concatenate(pieces, 1)


def _joined_outputs(kernel: BinMatrix) -> np.ndarray:
    parts = [book[codes].T for book, codes in zip(kernel.books, kernel.index.T, strict=True)]
    return np.ascontiguousarray(np.concatenate(parts))


def semi(effort: Effort) -> Iterator[Row]:
    order = np.argsort(rng.random((4096, 1024, 4)), axis=2) < 2
    weight = (rng.standard_normal((4096, 4096)) * order.reshape(4096, 4096)).astype(np.float32)
    kernel = pack_semi_structured(torch.from_numpy(weight))
    for batch in (1, 64):
        x = rng.standard_normal((batch, 4096)).astype(np.float32)
        calls = {OURS: lambda x=x: kernel(x), **linear(weight, x), **onnx("MatMul", weight, x)}
        yield row("semi", "linear 4096→4096, 2:4", calls, effort, batch=batch, bytes=(kernel.bytes, weight.nbytes))


@dataclass(frozen=True)
class Reduced:
    """A convolution of which SSL left so many filters and filter shapes, and how many times as fast it was then."""

    title: str
    shape: tuple[int, ...]
    side: int
    geometry: Geometry
    filters: int
    shapes: int
    published: float


def lowered(effort: Effort) -> Iterator[Row]:
    """LeNet's convolutions as SSL left them."""
    layers = (((20, 1, 5, 5), 28), ((50, 20, 5, 5), 12))
    for net, left in SSL.items():
        for number, (found, (shape, side)) in enumerate(zip(left, layers, strict=True), start=1):
            title = f"{net}, conv{number}: {found[0]} × {found[1]} left"
            case = Reduced(title, shape, side, Geometry((5, 5)), *found)
            yield from reduced("lowered", case, effort)


def lowered_alexnet(effort: Effort) -> Iterator[Row]:
    """AlexNet's, by the shares that SSL left."""
    for name, (shape, side, geometry, rows, columns, published) in SSL_ALEXNET.items():
        whole = math.prod(shape[1:])
        filters, shapes = round(rows * shape[0]), round(columns * whole)
        title = f"{name}: {filters} × {shapes} of {shape[0]} × {whole} left"
        case = Reduced(title, shape, side, geometry, filters, shapes, published)
        yield from reduced("lowered_alexnet", case, effort)


def reduced(section: str, case: Reduced, effort: Effort) -> Iterator[Row]:
    """Dense beside it, by torch and by the same lowering without removal."""
    third = replace(effort, seconds=effort.seconds / 3)
    for batch in (1, 64):
        weight = rng.standard_normal(case.shape).astype(np.float32)
        full = pack_lowered(weight, case.geometry)
        matrix = weight.reshape(len(weight), -1)
        matrix[rng.permutation(len(matrix))[case.filters :]] = 0
        matrix[:, rng.permutation(matrix.shape[1])[case.shapes :]] = 0
        kernel = pack_lowered(weight, case.geometry)
        x = rng.standard_normal((batch, case.shape[1], case.side, case.side)).astype(np.float32)
        calls = {OURS: lambda k=kernel, x=x: k(x), **convolution(weight, x, case.geometry)}
        found = row(section, case.title, {**calls, **onnx("Conv", weight, x, case.geometry)}, third, batch=batch)
        whole = interleaved({OURS: calls[OURS], "dense, lowered": lambda f=full, x=x: f(x)}, third)
        found.ms["dense, lowered"] = whole["dense, lowered"] * found.ms[OURS] / whole[OURS]
        found.published = f"{case.published}×"
        yield found


def sweep(effort: Effort) -> Iterator[Row]:
    """Time against density, for all inputs active and for 35 % of them."""
    half = replace(effort, seconds=effort.seconds / 2)
    for active in (1.0, 0.35):
        for density in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
            held, weight, x = sparse(4096, 4096, density, active, 1)
            kernel = pack_columns(held)
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x)}
            yield row("sweep", f"{active:.0%}", calls, half, density=density)


def first_calls() -> dict[str, float]:
    """Seconds of the first call of each kernel in this process, on the smallest inputs, imports left out."""
    held, weight, x = sparse(8, 16, 0.5, 1.0, 1)
    signs, image = np.sign(weight) + (weight == 0), np.ones((1, 2, 4, 4), np.float32)
    kernels = {
        "sparse columns": (lambda: pack_columns(held), x),
        "signs, linear": (lambda: pack_signs(signs), x),
        "signs, convolution": (lambda: pack_sign_filters(np.ones((2, 2, 3, 3), np.float32), Geometry((3, 3))), image),
        "looked-up sums, one input": (lambda: pack_lookup(held), x),
        "looked-up sums, 16 inputs": (lambda: pack_lookup(held), np.repeat(x, 16, 0)),
        "2:4, one input": (lambda: pack_semi_structured(torch.zeros(8, 16)), x),
        "2:4, 16 inputs": (lambda: pack_semi_structured(torch.zeros(8, 16)), np.repeat(x, 16, 0)),
        "lowered convolution": (lambda: pack_lowered(np.ones((2, 2, 3, 3), np.float32), Geometry((3, 3))), image),
    }
    found = {}
    for name, (pack, given) in kernels.items():
        start = time.perf_counter()
        pack()(given)
        found[name] = time.perf_counter() - start
    return found


def compile_(effort: Effort) -> Iterator[Row]:
    for name, ms in in_new_processes(__file__).items():
        yield Row("compile", name, ms)


SECTIONS = {"eie": eie, "xnor": xnor, "lookup": lookup, "semi": semi, "gpu": semi_on_gpu, "lowered": lowered}
SECTIONS |= {"lowered_alexnet": lowered_alexnet, "sweep": sweep, "compile": compile_}


if __name__ == "__main__":
    summary = (__doc__ or "").split("\n")[0]
    main(summary, SECTIONS, first_calls, write, results="results/kernels.json", threads=2, counted="batch")
