"""Runs of one recipe that differ in the seed alone: mean and spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tersenet.core.record import Record
from tersenet.report.axes import bounded
from tersenet.report.quality import headline_quality


@dataclass(frozen=True)
class Seeds:
    """Mean and sample standard deviation over the seeds of one recipe; `numbers` are places in the list of runs."""

    numbers: tuple[int, ...]
    seeds: tuple[int, ...]
    file_bytes: str
    quality: str


def seed_groups(records: Sequence[Record]) -> tuple[Seeds, ...]:
    """Every recipe (on the same data) with at least two seeds; of runs with the same seed, the first counts."""
    groups: dict[str, dict[int, tuple[int, Record]]] = {}
    for number, record in enumerate(records, start=1):
        plain = {key: value for key, value in record.recipe.items() if key != "seed"}
        key = repr((_sorted(plain), record.data_digest))
        groups.setdefault(key, {}).setdefault(record.seed, (number, record))
    return tuple(_seeds(list(group.values())) for group in groups.values() if len(group) > 1)


def _sorted(value: object) -> object:
    """The same whatever the order of keys."""
    if isinstance(value, dict):
        return sorted((str(key), repr(_sorted(inner))) for key, inner in value.items())
    return [_sorted(inner) for inner in value] if isinstance(value, list | tuple) else value


def _seeds(group: Sequence[tuple[int, Record]]) -> Seeds:
    records = [record for _, record in group]
    bytes_mean, bytes_deviation = _mean_and_deviation([record.figures.file_bytes for record in records])
    return Seeds(
        tuple(number for number, _ in group),
        tuple(record.seed for record in records),
        f"{bytes_mean:,.0f} ± {bytes_deviation:,.0f} bytes",
        _quality(records),
    )


def _quality(records: Sequence[Record]) -> str:
    measures = [headline_quality(record.figures) for record in records]
    values = [measure.file for measure in measures if measure.file is not None]
    if len(values) < len(measures) or len({measure.name for measure in measures}) > 1:
        return "not measured for all of them"
    mean, deviation = _mean_and_deviation(values)
    return f"{measures[0].name} {measures[0].spell(mean)} ± {measures[0].spell(deviation)}"


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    held = [bounded(value) for value in values]
    mean = math.fsum(held) / len(held)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in held) / (len(held) - 1))
