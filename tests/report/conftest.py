"""Records made up for the tests of the report. The figures are synthetic and belong to no run."""

from __future__ import annotations

import random
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from tersenet.core.record import Epoch, Figures, Histogram, Record, StageRow, TensorRow


def _histogram(rng: random.Random, entries: int, spread: float, kept: float, levels: int | None) -> Histogram:
    """A bell of `entries` weights; of a pruned one, only the tails; of a shared one, `levels` spikes."""
    weights = sorted((rng.gauss(0, spread) for _ in range(min(entries, 4000))), key=abs)
    weights = weights[int(len(weights) * (1 - kept)) :]
    bins = 64
    counts = [0] * bins
    for weight in weights:
        place = min(bins - 1, max(0, int((weight / spread / 4 + 1) / 2 * bins)))
        if levels:
            place = place // (bins // levels) * (bins // levels)
        counts[place] += max(1, entries // 4000)
    return Histogram(
        low=-4 * spread, high=4 * spread, counts=tuple(counts), zeros=entries - sum(counts) if kept < 1 else 0
    )


def _weight(name: str, shape: tuple[int, int], kept: float, coded: int, seed: int) -> TensorRow:
    rng = random.Random(seed)
    parameters = shape[0] * shape[1]
    positions = int(coded * 0.56)
    return TensorRow(
        name=name,
        shape=shape,
        form="shared",
        coders={"index": "ans"},
        parameters=parameters,
        nonzero=int(parameters * kept),
        distinct=33,
        bytes_values=coded - positions,
        bytes_positions=positions,
        bytes_tables=112,
        bytes_header=14,
        entropy_bytes=coded * 0.996,
        before=_histogram(rng, parameters, 0.04, 1.0, None),
        after=_histogram(rng, parameters, 0.04, kept, 32),
    )


def _bias(name: str, size: int) -> TensorRow:
    return TensorRow(
        name=name,
        shape=(size,),
        form="dense",
        coders={},
        parameters=size,
        nonzero=size,
        distinct=size,
        bytes_values=2 * size,
        bytes_positions=0,
        bytes_tables=0,
        bytes_header=9,
        entropy_bytes=0.0,
    )


def _epochs() -> tuple[Epoch, ...]:
    rng = random.Random(7)
    found = []
    plan = (("train", 20, 0.9, 0.016), ("1 prune.magnitude", 12, 0.08, 0.0162), ("2 quantize.share", 6, 0.03, 0.0158))
    for phase, epochs, start, floor in plan:
        for epoch in range(1, epochs + 1):
            fall = 0.62**epoch
            found.append(
                Epoch(
                    phase=phase,
                    epoch=epoch,
                    train_loss=0.004 + start * fall,
                    validation_loss=0.05 + start * fall * 0.9,
                    validation_error=floor + start * fall * 0.1 + 0.0004 * rng.random(),
                    lr=1e-3 * (1 - (epoch - 1) / epochs),
                )
            )
    return tuple(found)


RECIPE = {
    "model": {"name": "lenet_300_100"},
    "data": {"path": "mnist", "validation": 5000},
    "train": {"epochs": 20, "lr": 0.001},
    "stages": [
        {"method": "prune.magnitude", "sparsity": {"fc1": 0.92, "fc2": 0.91, "fc3": 0.74}, "train": {"epochs": 12}},
        {"method": "quantize.share", "bits": 5, "train": {"epochs": 6, "lr": 0.0001}},
    ],
    "seed": 1,
}


@pytest.fixture(scope="session")
def record() -> Record:
    tensors = (
        _weight("fc1.weight", (300, 784), 0.08, 17_420, 1),
        _bias("fc1.bias", 300),
        _weight("fc2.weight", (100, 300), 0.09, 2_460, 2),
        _bias("fc2.bias", 100),
        _weight("fc3.weight", (10, 100), 0.26, 181, 3),
        _bias("fc3.bias", 10),
    )
    header = 231
    file_bytes = header + sum(row.bytes for row in tensors)
    figures = Figures(
        dense_bytes=1_066_968,
        dense_zstd_bytes=985_412,
        file_bytes=file_bytes,
        ratio=266_610 * 4 / file_bytes,
        parameters=266_610,
        nonzero=sum(row.nonzero for row in tensors),
        macs=266_200,
        macs_nonzero=sum(row.nonzero for row in tensors if len(row.shape) == 2),
        validation_error_dense=0.0162,
        validation_error_file=0.0160,
        test_error_dense=0.0164,
        test_error_file=0.0158,
        test_loss_dense=0.0581,
        test_loss_file=0.0563,
        examples_test=10_000,
        train_seconds=61.4,
        total_seconds=74.9,
    )
    return Record(
        recipe=RECIPE,
        recipe_hash="3f1c0a9be27d",
        file="lenet_300_100.terse",
        file_digest="b7d1c2f09a3e",
        data="mnist",
        data_digest="90d4a1e6c7f2",
        seed=1,
        machine="2 cores, x86_64, CPU only",
        versions={"tersenet": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        figures=figures,
        bytes_file_header=header,
        tensors=tensors,
        stages=(
            StageRow(
                name="dense",
                validation_error=0.0162,
                validation_loss=0.06,
                nonzero=266_610,
                file_bytes=533_600,
                seconds=33,
            ),
            StageRow(
                name="prune.magnitude",
                validation_error=0.0161,
                validation_loss=0.057,
                nonzero=21_786,
                file_bytes=58_204,
                seconds=21,
            ),
            StageRow(
                name="quantize.share",
                validation_error=0.0160,
                validation_loss=0.058,
                nonzero=figures.nonzero,
                file_bytes=file_bytes,
                seconds=12.5,
            ),
        ),
        epochs=_epochs(),
        notes=("fc3.weight: at most 26 % of its weights could be kept, since the layer has 1,000.",),
    )


VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}


class Node:
    """One element of a page: its tag, attributes, children, and all text within it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    def all(self, tag: str | None = None, **attributes: str) -> list[Node]:
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        found = []
        for child in self.children:
            if isinstance(child, Node):
                fits = tag in (None, child.tag)
                fits = fits and all(value in child.attributes.get(key, "").split() for key, value in wanted.items())
                found += ([child] if fits else []) + child.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """A page as nodes; raises where a tag is closed that was not open, or left open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in <{tag}>: {attrs}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Node]:
    """HTML → tree; fails where the page is not well-formed."""

    def tree(page: str) -> Node:
        parser = Tree()
        parser.feed(page)
        parser.close()
        assert len(parser.open) == 1, f"left open: {[node.tag for node in parser.open[1:]]}"
        return parser.open[0]

    return tree
