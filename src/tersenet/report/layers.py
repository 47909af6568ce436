"""The columns of a table of layers: what each is called, where its number comes from, and how it is spelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tersenet.core.errors import TersenetError
from tersenet.core.profile import Cost, LayerCost, Profile, intensity
from tersenet.core.registry import nearest
from tersenet.report import text

MODEL = "(the model)"
"""What operators outside all layers belong to."""


@dataclass(frozen=True)
class Column:
    """key: for --sort. value: of one layer, None where it cannot be told."""

    key: str
    title: str
    value: Callable[[Profile, LayerCost], Any]
    spell: Callable[[Any], str] = text.count
    words: bool = False

    def cell(self, profile: Profile, layer: LayerCost) -> str:
        return self.spell(self.value(profile, layer))


def columns(profile: Profile) -> tuple[Column, ...]:
    """Of a table of layers; of a file, the dense network's beside those that compression changes."""
    file = profile.file is not None
    found = [
        Column("layer", "layer", lambda p, layer: layer.name or MODEL, text.clean_line, words=True),
        Column("kind", "kind", lambda p, layer: layer.kind, text.clean_line, words=True),
        *((_dense("dense_macs", "dense MACs", lambda cost: cost.macs),) if file else ()),
        _here("macs", "MACs", lambda cost: cost.macs),
        *((_here("nonzero", "nonzero", lambda cost: cost.nonzero),) if file else ()),
        _here("parameters", "parameters", lambda cost: cost.parameters),
        *((_dense("dense_bytes", "dense bytes", lambda cost: cost.bytes),) if file else ()),
        _here("bytes", "on disk" if file else "bytes", lambda cost: cost.bytes),
        _here("outputs", "outputs", lambda cost: cost.outputs),
        _here("live", "alive, bytes", lambda cost: cost.live_bytes),
        _here("traffic", "moved, bytes", lambda cost: cost.traffic),
        *((_dense("dense_energy", "dense µJ", _microjoules, text.significant),) if file else ()),
        _here("energy", "µJ, est.", _microjoules, text.significant),
        _here("intensity", "FLOP/byte", intensity, text.significant),
        Column("bound", "bound by", _bound, lambda value: value or text.MISSING, words=True),
        Column("least", "least µs", _least, text.significant),
        _here("measured", "measured µs", lambda cost: _micro(cost.seconds), text.significant),
    ]
    return tuple(found)


def arranged(profile: Profile, sort: str | None, top: int | None = None) -> tuple[LayerCost, ...]:
    """The layers by a column: numbers from the largest, words from A, what cannot be told last; as they run if none.

    Raises TersenetError where there is no such column, with the nearest name.
    """
    rows: Sequence[LayerCost] = profile.layers
    if top is not None and top < 1:
        raise TersenetError(f"--top {top}: must be at least 1")
    if sort is not None and sort != "order":
        known = {column.key: column for column in columns(profile)}
        if sort not in known:
            raise TersenetError(f"--sort {sort}: there is no such column{nearest(sort, [*known, 'order'])}")
        column = known[sort]
        told = [row for row in rows if column.value(profile, row) is not None]
        told.sort(key=lambda row: column.value(profile, row), reverse=not column.words)
        rows = [*told, *(row for row in rows if column.value(profile, row) is None)]
    return tuple(rows[:top])


def _here(key: str, title: str, value: Callable[[Cost], Any], spell: Callable[[Any], str] = text.count) -> Column:
    def of(profile: Profile, layer: LayerCost) -> Any:
        cost = profile.cost(layer)
        return None if cost is None else value(cost)

    return Column(key, title, of, spell)


def _dense(key: str, title: str, value: Callable[[Cost], Any], spell: Callable[[Any], str] = text.count) -> Column:
    return Column(key, title, lambda p, layer: None if layer.dense is None else value(layer.dense), spell)


def _micro(value: float | None) -> float | None:
    return None if value is None else 1e6 * value


def _microjoules(cost: Cost) -> float | None:
    return None if cost.energy is None else cost.energy.total / 1e6


def _bound(profile: Profile, layer: LayerCost) -> str | None:
    cost = profile.cost(layer)
    return profile.roof.bound(cost) if profile.roof and cost else None


def _least(profile: Profile, layer: LayerCost) -> float | None:
    cost = profile.cost(layer)
    return _micro(profile.roof.seconds(cost)) if profile.roof and cost else None
