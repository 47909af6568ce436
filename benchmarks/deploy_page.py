"""What deployed networks must come to, and the figures in docs/DEPLOY.md, from what `deploy.py` measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "DEPLOY.md"
BEGIN, END = "<!-- figures: written by benchmarks/deploy.py -->", "<!-- end of figures -->"
DENSE, COMPRESSED = "dense", "compressed"
ONNX, OPENVINO, TORCH = "ONNX Runtime", "OpenVINO", "PyTorch eager"
EXPORTED = (ONNX, OPENVINO)

ACROSS = {ONNX: {1: 6, 64: 20}, TORCH: {1: 20, 64: 40}}
"""Rival, batch size → how many times as fast the compressed VGG-16 must be in the better of the exported formats."""
WITHIN = 2
"""How many times as fast as float32 MobileNet in integers must be, in the same runtime."""
LOSS, AGREEMENT, SIZE = 0.005, 0.98, 0.27
"""Most error more than dense; least share of same answers; most bytes, of the dense ONNX file."""
TITLES = {  # by the name in the zoo, and after a colon which network of that name
    "vgg16_bn": "VGG-16 for 32×32 images: half the channels, and integers of eight bits",
    "vgg16_bn:fast": "The same with fewer channels, a seventh of the multiplications",
    "vgg16_bn:fastest": "A fourteenth of the multiplications, with the net of half the channels as teacher",
    "mobilenet_v1": "MobileNet for 224×224 images: integers of eight bits",
}


def net_of(model: str) -> str:
    """The name in the zoo of a key of TITLES."""
    return model.partition(":")[0]


@dataclass(frozen=True)
class Case:
    """Median milliseconds of a call by 'dense, ONNX Runtime' and so on."""

    batch: int
    threads: int
    ms: dict[str, float]

    def best(self) -> tuple[str, float]:
        """The runtime in which the exported compressed network is the fastest, and its time."""
        return min(((name, self.ms[f"{COMPRESSED}, {name}"]) for name in EXPORTED), key=lambda pair: pair[1])

    def where(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class Scores:
    """Errors of dense and compressed on the first `images` of the test split, as `runtime` computes them, and the share
    of images for which both give the same class there."""

    runtime: str
    images: int
    dense: float
    compressed: float
    agreement: float


@dataclass(frozen=True)
class Figures:
    """All that was measured of one network. model: a key of TITLES. load: how much other work waited for each core.
    sizes: bytes by what it is."""

    model: str
    machine: str
    load: float
    trained: bool
    sizes: dict[str, int]
    cases: list[Case]
    scores: list[Scores]


@dataclass(frozen=True)
class Check:
    case: str
    must: str
    found: str
    met: bool | None

    def line(self) -> str:
        return f"{self.case}: must be {self.must}, is {self.found}: {self.verdict()}"

    def verdict(self) -> str:
        return {True: "met", False: "**missed**", None: "not measured"}[self.met]


def checks(figures: Figures) -> list[Check]:
    speed = _across(figures) if net_of(figures.model) == "vgg16_bn" else _within(figures)
    share = figures.sizes[f"{COMPRESSED}.onnx"] / figures.sizes[f"{DENSE}.onnx"]
    size = Check("exported ONNX file, of dense", f"≤ {SIZE:.0%}", f"{share:.1%}", share <= SIZE)
    return [*speed, *_answers(figures), size]


def _across(figures: Figures) -> Iterator[Check]:
    for rival, least in ACROSS.items():
        for case in figures.cases:
            name, ms = case.best()
            ratio = case.ms[f"{DENSE}, {rival}"] / ms
            what = f"{case.where()}: {name} against dense in {rival}"
            if case.batch in least:
                yield Check(what, f"≥ {least[case.batch]}×", f"{ratio:.1f}×", ratio >= least[case.batch])


def _within(figures: Figures) -> Iterator[Check]:
    for case in figures.cases:
        for runtime in EXPORTED:
            ratio = case.ms[f"{DENSE}, {runtime}"] / case.ms[f"{COMPRESSED}, {runtime}"]
            yield Check(
                f"{case.where()}: {runtime}, integers against float32", f"≥ {WITHIN}×", f"{ratio:.1f}×", ratio >= WITHIN
            )


def _answers(figures: Figures) -> Iterator[Check]:
    """The loss is against the dense network in ONNX Runtime; the same answers are counted within a runtime."""
    vgg = net_of(figures.model) == "vgg16_bn"
    must = f"≤ {100 * LOSS:g} points" if vgg else f"≥ {AGREEMENT:.0%}"
    if not figures.scores:
        yield Check("loss of accuracy" if vgg else "same class as float32", must, "–", None)
    for row in figures.scores:
        if row.runtime not in EXPORTED:
            continue
        if vgg:
            loss = round(row.compressed - next(one.dense for one in figures.scores if one.runtime == ONNX), 6)
            yield Check(f"loss of accuracy in {row.runtime}", must, f"{100 * loss:.2f} points", loss <= LOSS)
        else:
            same = row.agreement
            yield Check(f"same class as float32 in {row.runtime}", must, f"{same:.2%}", same >= AGREEMENT)


def write(results: Path, figures: Figures) -> None:
    """Keeps the figures of this network, and writes those of all there are into the page."""
    held: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    held[figures.model] = asdict(figures)
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    lines = [line for name in TITLES if name in held for line in section(read(held[name]))]
    head, _, rest = PAGE.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text("\n".join([f"{head}{BEGIN}", "", *lines, f"{END}{tail}"]))


def read(plain: dict[str, Any]) -> Figures:
    parts = {"cases": [Case(**row) for row in plain["cases"]], "scores": [Scores(**row) for row in plain["scores"]]}
    return Figures(**{**plain, **parts})


def section(figures: Figures) -> list[str]:
    weights = (
        "Trained weights."
        if figures.trained
        else "Random weights: they change nothing of times and sizes, and errors were not measured."
    )
    busy = (
        f" {figures.load:g} processes waited for each core while this was measured: read ratios."
        if figures.load > 0.5
        else ""
    )
    return [
        f"### {TITLES[figures.model]}",
        "",
        f"{weights} {figures.machine}.{busy}",
        "",
        "| case | must | measured | |",
        "| --- | --- | --- | --- |",
        *(f"| {one.case} | {one.must} | {one.found} | {one.verdict()} |" for one in checks(figures)),
        "",
        *_times(figures),
        *_errors(figures),
        *_sizes(figures),
    ]


def _times(figures: Figures) -> list[str]:
    """All combinations, with how many times as fast as dense in the same runtime."""
    lines = ["| batch | threads | runtime | dense, ms | compressed, ms | faster |", f"|{' --- |' * 6}"]
    for case in figures.cases:
        for runtime in (*EXPORTED, TORCH):
            dense, ms = (case.ms[f"{kind}, {runtime}"] for kind in (DENSE, COMPRESSED))
            ratio = f"{dense / ms:.1f}×" if dense >= ms else f"{dense / ms:.2f}×, slower"
            lines.append(f"| {case.batch} | {case.threads} | {runtime} | {dense:.2f} | {ms:.2f} | {ratio} |")
    return [*lines, ""]


def _errors(figures: Figures) -> list[str]:
    if not figures.scores:
        return []
    lines = ["| runtime | test images | error, dense | error, compressed | same class |", f"|{' --- |' * 5}"]
    for row in figures.scores:
        cells = (row.runtime, f"{row.images:,}", f"{row.dense:.2%}", f"{row.compressed:.2%}", f"{row.agreement:.2%}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _sizes(figures: Figures) -> list[str]:
    rows = [
        (ending, *(figures.sizes[f"{kind}{ending}"] for kind in (DENSE, COMPRESSED)))
        for ending in (".onnx", ".xml, .bin")
    ]
    rows.insert(0, (".terse", figures.sizes[DENSE], figures.sizes[COMPRESSED]))
    lines = ["| file | dense, bytes | compressed, bytes | |", f"|{' --- |' * 4}"]
    return [*lines, *(f"| {name} | {dense:,} | {small:,} | {small / dense:.1%} |" for name, dense, small in rows), ""]
