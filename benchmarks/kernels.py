"""Kernels on the compressed form beside dense float32, ONNX Runtime and sparse libraries, in one run.

    pip install -c constraints.txt scipy onnx onnxruntime
    python benchmarks/kernels.py [SECTION …] [--threads 2] [--seconds 1.5] [--results results/kernels.json]

Sections: eie, xnor, lookup, semi, lowered, sweep, compile; all of them without a name. Call by call in turn, so that
noise hits all; figures are medians, and ratios those of medians within a row. With one thread, time is that which the
processor spent on the calling thread, so that a machine that others use too can be measured. Weights are random. What
is measured goes into the results, and docs/results/kernels.md and its plot are written from them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from kernels_page import Row, write
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

Calls = dict[str, Callable[[], Any]]
OURS, DENSE = "ours", "dense torch"
ALEXNET = {"fc6": (4096, 9216, 0.09, 0.35), "fc7": (4096, 4096, 0.09, 0.35), "fc8": (1000, 4096, 0.25, 0.38)}
"""Rows, columns, density of weights (Deep Compression, table 4) and of activations (EIE, table III)."""
SSL = {  # Wen et al. 2016, tables 1 and 2: filters left of conv1 and conv2, shapes left, published speed-ups
    "LeNet 2": ((5, 25, 1.64), (19, 100, 5.23)),
    "LeNet 3": ((3, 25, 1.99), (12, 75, 7.44)),
    "LeNet 4": ((2, 21, 2.33), (50, 41, 6.93)),
    "LeNet 5": ((1, 7, 5.19), (50, 14, 10.82)),
}
rng = np.random.default_rng(0)


def interleaved(calls: Calls, seconds: float) -> dict[str, float]:
    """Median milliseconds of each call, after one that is not counted; at least seven rounds."""
    clock = time.perf_counter if torch.get_num_threads() > 1 else time.thread_time
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(times[OURS]) < 7:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(row) for name, row in times.items()}


def row(section: str, case: str, calls: Calls, seconds: float, **more: Any) -> Row:
    """A measured row, after all calls were found to give the same."""
    expected = np.asarray(calls[DENSE]())
    for name, call in calls.items():
        found = np.asarray(call()).reshape(expected.shape)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()), (case, name)
    return Row(section, case, interleaved(calls, seconds), **more)


def onnx(kind: str, weight: np.ndarray, x: np.ndarray, threads: int) -> Calls:
    """A call of ONNX Runtime for one MatMul or Conv; none where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return {}
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    held = np.ascontiguousarray(weight.T) if kind == "MatMul" else weight
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    node = helper.make_node(kind, ["x", "w"], ["y"])
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [numpy_helper.from_array(held, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ready = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {"ONNX Runtime": lambda: ready.run(None, {"x": x})[0]}


def linear(weight: np.ndarray, x: np.ndarray) -> Calls:
    held, inputs = torch.from_numpy(weight), torch.from_numpy(x)
    return {DENSE: lambda: nn.functional.linear(inputs, held)}


def convolution(weight: np.ndarray, x: np.ndarray) -> Calls:
    held, images = torch.from_numpy(weight), torch.from_numpy(x)
    return {DENSE: lambda: nn.functional.conv2d(images, held)}


def sparse(rows: int, columns: int, density: float, active: float, batch: int) -> tuple[Levels, np.ndarray, np.ndarray]:
    """Weights of 15 values and zero, the same as a dense matrix, and inputs."""
    index = (rng.random(rows * columns, np.float32) < density).astype(np.int32)
    index[index > 0] = rng.integers(1, 16, int(index.sum()))
    book = np.r_[0, rng.standard_normal(15)].astype(np.float32)
    x = np.where(rng.random((batch, columns)) < active, rng.standard_normal((batch, columns)), 0).astype(np.float32)
    return Levels(index, book, rows, columns), book[index].reshape(rows, columns), x


def sparse_libraries(weight: np.ndarray, x: np.ndarray) -> Calls:
    csr, turned, held = scipy.sparse.csr_matrix(weight), np.ascontiguousarray(x.T), torch.from_numpy(weight)
    compressed, columns = held.to_sparse_csr(), torch.from_numpy(turned)
    return {"SciPy CSR": lambda: (csr @ turned).T, "torch CSR": lambda: (compressed @ columns).T}


def eie(threads: int, seconds: float) -> Iterator[Row]:
    totals: dict[int, dict[str, float]] = {1: {}, 4: {}}
    for name, (rows, columns, density, active) in ALEXNET.items():
        held, weight, inputs = sparse(rows, columns, density, active, 4)
        kernel = pack_columns(held)
        for batch, total in totals.items():
            x = inputs[:batch]
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x, threads)}
            case = f"{name} {columns}→{rows}, weights {density:.0%}, activations {active:.0%}"
            bytes_ = (kernel.bytes, weight.nbytes)
            found = row("eie", case, {**calls, **sparse_libraries(weight, x)}, seconds, batch=batch, bytes=bytes_)
            for rival, ms in found.ms.items():
                total[rival] = total.get(rival, 0) + ms
            yield found
    for batch, total in totals.items():
        yield Row("eie", "fc6 + fc7 + fc8", total, batch=batch)


def xnor(threads: int, seconds: float) -> Iterator[Row]:
    for batch in (1, 64):
        weight, x = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in ((4096, 4096), (batch, 4096)))
        kernel = pack_signs(weight)
        calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x, threads)}
        yield row("xnor", "linear 4096→4096", calls, seconds, batch=batch, bytes=(kernel.bytes, weight.nbytes))
    for batch in (1, 16):
        shapes = ((256, 256, 3, 3), (batch, 256, 14, 14))
        weight, x = (rng.choice(np.array([-1, 1], np.float32), shape) for shape in shapes)
        kernel = pack_sign_filters(weight, Geometry((3, 3)))
        calls = {OURS: lambda k=kernel, x=x: k(x), **convolution(weight, x), **onnx("Conv", weight, x, threads)}
        bytes_ = (kernel.bytes, weight.nbytes)
        yield row("xnor", "convolution 3×3, 256→256, 14×14", calls, seconds, batch=batch, bytes=bytes_)
    yield from network(seconds)


def network(seconds: float) -> Iterator[Row]:
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
        yield row("xnor", "network 784→4096→4096→4096→10, outputs equal bit for bit", calls, seconds, batch=batch)


def lookup(threads: int, seconds: float) -> Iterator[Row]:
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
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x), **onnx("MatMul", weight, x, threads)}
            bytes_ = (kernel.bytes, weight.nbytes)
            yield row("lookup", f"4096→4096, {case}", calls, seconds, batch=batch, bytes=bytes_)


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


def semi(threads: int, seconds: float) -> Iterator[Row]:
    order = np.argsort(rng.random((4096, 1024, 4)), axis=2) < 2
    weight = (rng.standard_normal((4096, 4096)) * order.reshape(4096, 4096)).astype(np.float32)
    kernel = pack_semi_structured(torch.from_numpy(weight))
    for batch in (1, 64):
        x = rng.standard_normal((batch, 4096)).astype(np.float32)
        calls = {OURS: lambda x=x: kernel(x), **linear(weight, x), **onnx("MatMul", weight, x, threads)}
        yield row("semi", "linear 4096→4096, 2:4", calls, seconds, batch=batch, bytes=(kernel.bytes, weight.nbytes))


def lowered(threads: int, seconds: float) -> Iterator[Row]:
    """LeNet's convolutions as SSL left them; dense beside them, by torch and by the same lowering without removal."""
    layers = (((20, 1, 5, 5), 28), ((50, 20, 5, 5), 12))
    for net, left in SSL.items():
        for number, ((filters, shapes, published), (shape, size)) in enumerate(zip(left, layers, strict=True), start=1):
            for batch in (1, 64):
                weight = rng.standard_normal(shape).astype(np.float32)
                full = pack_lowered(weight, Geometry((5, 5)))
                matrix = weight.reshape(len(weight), -1)
                matrix[rng.permutation(len(matrix))[filters:]] = 0
                matrix[:, rng.permutation(matrix.shape[1])[shapes:]] = 0
                kernel = pack_lowered(weight, Geometry((5, 5)))
                x = rng.standard_normal((batch, shape[1], size, size)).astype(np.float32)
                calls = {OURS: lambda k=kernel, x=x: k(x), **convolution(weight, x), **onnx("Conv", weight, x, threads)}
                case = f"{net}, conv{number}: {filters} × {shapes} left"
                found = row("lowered", case, calls, seconds / 3, batch=batch)
                whole = interleaved({OURS: calls[OURS], "dense, lowered": lambda f=full, x=x: f(x)}, seconds / 3)
                found.ms["dense, lowered"] = whole["dense, lowered"] * found.ms[OURS] / whole[OURS]
                found.published = f"{published}×"
                yield found


def sweep(threads: int, seconds: float) -> Iterator[Row]:
    """Time against density, for all inputs active and for 35 % of them."""
    for active in (1.0, 0.35):
        for density in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
            held, weight, x = sparse(4096, 4096, density, active, 1)
            kernel = pack_columns(held)
            calls = {OURS: lambda k=kernel, x=x: k(x), **linear(weight, x)}
            yield row("sweep", f"{active:.0%}", calls, seconds / 2, density=density)


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


def compile_(threads: int, seconds: float) -> Iterator[Row]:
    """First calls in a process that finds no compiled code, and in the next one, which finds it on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--first"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        runs = [
            json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        ]
    for name, first in runs[0].items():
        yield Row("compile", name, {"compiled": 1e3 * first, "from the disk": 1e3 * runs[1][name]})


SECTIONS = {"eie": eie, "xnor": xnor, "lookup": lookup, "semi": semi, "lowered": lowered, "sweep": sweep}
SECTIONS["compile"] = compile_


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row")
    parser.add_argument("--results", type=Path, default=Path("results/kernels.json"))
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section '{min(unknown)}'; there are {', '.join(SECTIONS)}")
    torch.set_num_threads(options.threads)
    if options.first:
        print(json.dumps(first_calls()))
        return
    for section in options.sections or SECTIONS:
        rows = []
        for found in SECTIONS[section](options.threads, options.seconds):
            rows.append(found)
            print(section, found.case, found.batch, {name: round(ms, 3) for name, ms in found.ms.items()}, flush=True)
        write(options.results, section, rows, options.threads)


if __name__ == "__main__":
    main()
