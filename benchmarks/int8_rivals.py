"""`quantize.int8` beside ONNX Runtime's quantizer and NNCF: same networks, same calibration images, no training.

    pip install -c constraints.txt onnx onnxruntime onnxscript openvino nncf
    python benchmarks/int8_rivals.py --data FOLDER/cifar10 NAME=FILE.terse…

Every FILE holds a network with float weights for CIFAR-10. ONNX Runtime and NNCF are given what `tersenet export`
writes of it, batch norms multiplied into the layers. Errors are counted by the runtime that computes in integers. What
is measured is written to docs/results/int8_rivals.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from deploy import interleaved, processor
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

import tersenet
from tersenet.core.recipe import DataSpec
from tersenet.data import Splits, load_data
from tersenet.data.source import Source
from tersenet.flow.deployable import deployable
from tersenet.runtime.export import export
from tersenet.runtime.session import Session

PAGE = Path(__file__).parent.parent / "docs" / "results" / "int8_rivals.md"
IMAGES, BATCH, SECONDS = 512, 64, 20
"""For calibration; in a call that is timed; for all calls of a network."""
INPUT = ["3x32x32"]
ENDINGS = {"ONNX Runtime": ".onnx", "OpenVINO": ".xml"}
Name = tuple[str, str]
"""(way, runtime)"""


@dataclass(frozen=True)
class Row:
    """validation, test: errors. ms: of a call."""

    way: str
    runtime: str
    validation: float
    test: float
    bytes: int
    ms: float


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: np.ndarray, name: str) -> None:
        self.feeds = iter([{name: part} for part in np.split(images, len(images) // BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def made(file: Path, splits: Splits, folder: Path) -> Iterator[tuple[Name, Path]]:
    """The file that a runtime reads, for each way."""
    images, found = first(splits.train, IMAGES), deployable(file, INPUT)
    yield from exported(file, "float32", folder)
    ours = tersenet.compress(found.model, {"stages": [{"method": "quantize.int8"}]}, splits, out=folder / "run").file
    yield from exported(ours, "ours", folder)
    source = folder / "float32.onnx"
    name = onnx.load(source).graph.input[0].name
    for method in ("MinMax", "Percentile", "Entropy"):
        path, kind = folder / f"{method}.onnx", CalibrationMethod[method]
        options = {"per_channel": True, "activation_type": QuantType.QUInt8, "calibrate_method": kind}
        quantize_static(source, path, Reader(images, name), **options)
        yield (f"ORT, {method}", "ONNX Runtime"), path
    for way, preset in (("NNCF", None), ("NNCF, mixed", nncf.QuantizationPreset.MIXED)):
        model = nncf.quantize(
            onnx.load(source), nncf.Dataset([{name: one[None]} for one in images]), preset=preset, subset_size=IMAGES
        )
        onnx.save(model, folder / f"{way}.onnx")
        yield (way, "ONNX Runtime"), folder / f"{way}.onnx"
        model = openvino.Core().read_model(source.with_suffix(".xml"))
        model = nncf.quantize(model, nncf.Dataset([one[None] for one in images]), preset=preset, subset_size=IMAGES)
        openvino.save_model(model, folder / f"{way}.xml", compress_to_fp16=False)
        yield (way, "OpenVINO"), folder / f"{way}.xml"


def exported(file: Path, way: str, folder: Path) -> Iterator[tuple[Name, Path]]:
    found = deployable(file, INPUT)
    for runtime, ending in ENDINGS.items():
        export(found.model, found.inputs(2), folder / f"{way}{ending}", codes=found.codes)
        yield (way, runtime), folder / f"{way}{ending}"


def first(split: Source, count: int) -> np.ndarray:
    parts = [batch.inputs[0].numpy() for batch, _ in zip(split.batches(BATCH), range(count // BATCH), strict=False)]
    found: np.ndarray = np.concatenate(parts)
    return found


def error(run: Callable[[np.ndarray], np.ndarray], split: Source | None) -> float:
    assert split is not None
    wrong = sum(
        int((run(batch.inputs[0].numpy()).argmax(1) != batch.target.numpy()).sum())  # type: ignore[union-attr]
        for batch in split.batches(100)
    )
    return wrong / len(split)


def rows(files: dict[Name, Path], splits: Splits) -> Iterator[Row]:
    assert splits.test is not None
    sessions = {name: Session(path, threads=1) for name, path in files.items()}
    ms = interleaved(sessions, first(splits.test, BATCH), SECONDS, process_time)
    for name, path in files.items():
        run, parts = sessions[name], [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        held = sum(part.stat().st_size for part in parts)
        yield Row(*name, error(run, splits.validation), error(run, splits.test), held, ms[name])


def page(found: dict[str, list[Row]]) -> Iterator[str]:
    yield f"""\
# Integers of eight bits without training, beside ONNX Runtime's quantizer and NNCF

Written by `python benchmarks/int8_rivals.py --data FOLDER/cifar10 NAME=FILE…`. All begin with the same weights and
{IMAGES} unlabelled images of CIFAR-10 (recoded as JPEG). *ours*: `quantize.int8`, which chooses the ranges of inputs by
the error on validation images, and where that cannot tell, by how near outputs stay. *ORT*: `quantize_static` of ONNX
Runtime {onnxruntime.__version__}, weights per channel, calibrated as named. *NNCF*: `nncf.quantize`,
{nncf.__version__}, with its defaults, and *mixed*, inputs with a zero point. Errors are those of the runtime that
computes in integers: one validation image is 0.02 %, one test image 0.01 %. Times are medians of calls with {BATCH}
images in turn, of the processor on one thread. {processor()}.
"""
    for title, listed in found.items():
        yield f"## {title}\n"
        yield "| quantizer | runtime | validation error | test error | bytes | ms |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for row in listed:
            yield (
                f"| {row.way} | {row.runtime} | {row.validation:.2%} | {row.test:.2%} | {row.bytes:,} | {row.ms:.1f} |"
            )
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="CIFAR-10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits, found = load_data(DataSpec(path=options.data)), {}
    for title, _, file in (text.partition("=") for text in options.files):
        with tempfile.TemporaryDirectory() as name:
            found[title] = list(rows(dict(made(Path(file), splits, Path(name))), splits))
        for row in found[title]:
            print(title, row, flush=True)
    PAGE.write_text("\n".join(page(found)))


if __name__ == "__main__":
    main()
