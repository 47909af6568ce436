"""A compressed network beside the dense one in ONNX Runtime, OpenVINO and PyTorch, and what that must come to.

    pip install -c constraints.txt onnx onnxruntime onnxscript openvino
    python benchmarks/deploy.py --dense D.terse --compressed C.terse --data FOLDER/cifar10
    python benchmarks/deploy.py --untrained vgg16_bn          or mobilenet_v1: random weights, times and sizes alone

Both files are exported, and all exports called in turn, so that noise hits all of them; figures are medians, and ratios
those of medians of one run. With one thread, time is that which the processor spent on this process, so that a machine
that others use too can be measured; with more it is that of the clock. With --data, each export is given the test
images, and its errors are counted in the runtime that computes it. What is measured goes into results/deploy.json, and
docs/DEPLOY.md is given its figures from there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deploy_page import COMPRESSED, DENSE, TITLES, TORCH, Case, Figures, Scores, checks, net_of, write
from sections import TURN, Effort
from sections import interleaved as in_turn

from tersenet.core.recipe import DataSpec, Recipe
from tersenet.data import Splits, as_splits, load_data
from tersenet.experiments.enlarged import enlarged
from tersenet.flow.deployable import Deployable, deployable
from tersenet.flow.measuring import machine
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.flow.run import run
from tersenet.models import input_shape
from tersenet.runtime.export import export
from tersenet.runtime.plain import plain
from tersenet.runtime.session import Session

RUNTIMES = {"ONNX Runtime": ".onnx", "OpenVINO": ".xml", TORCH: ""}
"""By what they are called: the ending of the file that they read; eager PyTorch takes the module itself."""
INT8 = {"method": "quantize.int8", "batches": 1, "batch_size": 8, "ranges": ["minmax"]}
STAGES = {"vgg16_bn": [{"method": "prune.channels", "ratio": 0.5}, INT8], "mobilenet_v1": [INT8]}
"""What makes the compressed network of one with random weights."""
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")
Name = tuple[str, str]
"""(dense or compressed, runtime)"""


@dataclass(frozen=True)
class Subject:
    """One network, dense and compressed, each exported for each runtime."""

    shape: tuple[int, ...]
    sources: Mapping[Name, Any]
    sizes: Mapping[str, int]


def untrained(model: str, folder: Path) -> tuple[Path, Path]:
    """Files of the network with random weights, and of what the stages make of it."""
    recipes = [Recipe.parse({"model": model, "stages": stages}) for stages in ([], STAGES[model])]
    images, labels = torch.randn(16, *input_shape(model)), torch.arange(16) % 10
    splits = as_splits({"train": (images, labels), "validation": (images, labels)})
    made = [run(recipe, prepare_model(recipe), splits, folder / str(place)) for place, recipe in enumerate(recipes)]
    return made[0].file, made[1].file


def subject(dense: Path, compressed: Path, shape: tuple[int, ...], folder: Path) -> Subject:
    given = ["x".join(map(str, shape))]
    found = {DENSE: deployable(dense, given), COMPRESSED: deployable(compressed, given)}
    sources: dict[Name, Any] = {}
    sizes = {DENSE: dense.stat().st_size, COMPRESSED: compressed.stat().st_size}
    for kind, one in found.items():
        for runtime, ending in RUNTIMES.items():
            sources[kind, runtime] = _exported(one, folder / f"{kind}{ending}") if ending else plain(one.model)
        sizes[f"{kind}.onnx"] = (folder / f"{kind}.onnx").stat().st_size
        sizes[f"{kind}.xml, .bin"] = sum((folder / f"{kind}.{part}").stat().st_size for part in ("xml", "bin"))
    return Subject(shape, sources, sizes)


def _exported(found: Deployable, path: Path) -> Path:
    made = export(found.model, found.inputs(2), path, codes=found.codes)
    print(f"{path.name}: {made.bytes:,} bytes, outputs {made.difference:.1e} from PyTorch's", *made.notes, flush=True)
    return path


def cases(found: Subject, batches: list[int], threads: list[int], seconds: float) -> Iterator[Case]:
    for count in threads:
        torch.set_num_threads(count)
        sessions = {name: Session(source, threads=count) for name, source in found.sources.items()}
        for batch in batches:
            x = np.random.default_rng(0).standard_normal((batch, *found.shape)).astype(np.float32)
            ms = interleaved(sessions, x, seconds, time.perf_counter if count > 1 else time.process_time)
            case = Case(batch, count, {f"{kind}, {runtime}": value for (kind, runtime), value in ms.items()})
            print(f"batch {batch}, {count} threads:", {name: round(value, 2) for name, value in case.ms.items()})
            yield case


def interleaved(sessions: Mapping[Name, Session], x: np.ndarray, seconds: float, clock: Any) -> dict[Name, float]:
    """Median milliseconds of each; at least one turn."""
    calls = {name: partial(session, x) for name, session in sessions.items()}
    return in_turn(calls, Effort(seconds, TURN), clock)


def test_images(shape: tuple[int, ...], folder: str) -> Splits:
    if shape[1] > 32:
        return enlarged(folder, shape[1])
    return load_data(DataSpec(path=folder))  # a tenth held out, as in training: statistics are of the rest


def scores(found: Subject, splits: Splits, most: int) -> list[Scores]:
    """Errors of each export in its runtime, and how often the compressed one says what the dense one says there."""
    assert splits.test is not None
    sessions = {name: Session(source) for name, source in found.sources.items()}
    said: dict[Name, list[np.ndarray]] = {name: [] for name in sessions}
    labels: list[np.ndarray] = []
    for batch in splits.test.batches(50):
        for name, session in sessions.items():
            said[name].append(session(batch.inputs[0].numpy()).argmax(1))
        labels.append(batch.target.numpy())
        if most and sum(map(len, labels)) >= most:
            break
    true, answers = np.concatenate(labels), {name: np.concatenate(parts) for name, parts in said.items()}
    return [
        Scores(
            runtime,
            len(true),
            *(float((answers[kind, runtime] != true).mean()) for kind in (DENSE, COMPRESSED)),
            float((answers[DENSE, runtime] == answers[COMPRESSED, runtime]).mean()),
        )
        for runtime in RUNTIMES
    ]


def processor() -> str:
    """With the instructions that multiply integers, on which all depends."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    has = [name for name in INSTRUCTIONS if name in flags]
    return f"{machine(torch.device('cpu')).rpartition(',')[0]}, {' '.join(has) or 'instructions not known'}"


def main() -> None:
    options = _options()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)  # of what else is at work: later this process counts too
    register_methods()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.untrained or options.model
        files = untrained(model, folder) if options.untrained else (options.dense, options.compressed)
        found = subject(*files, input_shape(net_of(model)), folder)
        measured = list(cases(found, options.batch, options.threads, options.seconds))
        said = scores(found, test_images(found.shape, options.data), options.images) if options.data else []
        figures = Figures(model, processor(), round(load, 1), not options.untrained, dict(found.sizes), measured, said)
    for check in checks(figures):
        print(check.line())
    write(options.results, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dense", type=Path, metavar="FILE")
    parser.add_argument("--compressed", type=Path, metavar="FILE")
    parser.add_argument("--untrained", choices=STAGES)
    parser.add_argument("--model", choices=TITLES, default="vgg16_bn", help="what the files hold")
    parser.add_argument("--data", metavar="FOLDER", help="CIFAR-10, for errors in each runtime")
    parser.add_argument("--images", type=int, default=0, help="of the test split, the first ones; all by default")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20, help="for each batch size and number of threads")
    parser.add_argument("--results", type=Path, default=Path("results/deploy.json"))
    options = parser.parse_args()
    if bool(options.untrained) == bool(options.dense and options.compressed):
        parser.error("give --dense and --compressed, or --untrained")
    if options.untrained and options.data:
        parser.error("errors of random weights say nothing; leave out --data")
    return options


if __name__ == "__main__":
    main()
