"""A state dict into a `.terse` file and back, tensor by tensor, for people with no training set-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from tersenet.artifact.contents import Contents
from tersenet.artifact.document import Document
from tersenet.artifact.envelope import MAGIC
from tersenet.artifact.stream_reader import opened
from tersenet.artifact.stream_writer import StreamWriter
from tersenet.coding.lanes import Map
from tersenet.core.disk import why
from tersenet.core.errors import ArtifactError, RecipeError
from tersenet.core.version import __version__
from tersenet.flow.importances import Importances
from tersenet.flow.meter import Meter
from tersenet.flow.state_dicts import SAFE, StateDict, write_safetensors
from tersenet.flow.tensor_coding import Precision, decoded, encoded


@dataclass(frozen=True)
class Packed:
    """input_bytes: of the tensors' files. quantized: how many tensors were rounded. seconds: of this command alone."""

    file: str
    tensors: int
    quantized: int
    input_bytes: int
    bytes: int
    seconds: float

    @property
    def saved(self) -> float:
        """Share of the input's bytes."""
        return 1 - self.bytes / self.input_bytes


def pack(
    source: str | Path,
    target: str | Path,
    precision: Precision = Precision(),  # noqa: B008  (immutable)
    *,
    calibration: str | Path | None = None,
    threads: int = 0,
    resume: bool = False,
    force: bool = False,
    meter: Meter | None = None,
) -> Packed:
    """Write the state dict at `source` to the `.terse` file `target`.

    calibration: a file of `Importances`, by which errors of rounding are weighted.
    threads: 0 for as many as there are cores. resume: go on where an interrupted call with the same arguments ended.
    force: replace `target` also if it is no `.terse` file.
    Raises ModelError for what is no state dict, or holds NaN where it is to be rounded, or has no fitting importances;
    ArtifactError if `target` cannot be written; RecipeError for importances of what is not rounded.
    """
    if calibration is not None and precision == Precision():
        raise RecipeError("--calibration: weights errors of rounding, which --bits or --rmse ask for")
    begun, target, meter = time.perf_counter(), Path(target), meter or Meter()
    _refuse_foreign(target, force, lambda head: head.startswith(MAGIC), "a .terse file")
    with (
        StateDict(Path(source)) as state,
        nullcontext() if calibration is None else Importances(Path(calibration), state) as importances,
        meter.over(state.bytes()),
        _pool(threads) as each,
    ):
        key = {"input": state.key, "precision": precision.to_dict(), "version": __version__}
        if importances is not None:
            key["calibration"] = importances.key
        with StreamWriter(target, key, resume) as writer:
            kept = len(writer.done)
            if writer.done != state.names[:kept]:
                raise ArtifactError(f"{target}: what an interrupted run left is not of this input; leave out --resume")
            for number, name in enumerate(state.names):
                tensor = state[name]
                if number >= kept:
                    importance = None if importances is None else importances.of(name)
                    writer.add(encoded(name, tensor, precision, each, importance))
                meter.advance(tensor.numel() * tensor.itemsize)
            ledger = writer.finish(_contents(state, precision, calibration is not None))
    quantized = sum(row.form == "uniform" for row in ledger.rows)
    return Packed(str(target), len(ledger.rows), quantized, state.bytes(), ledger.total, time.perf_counter() - begun)


def unpack(
    source: str | Path,
    target: str | Path,
    *,
    threads: int = 0,
    force: bool = False,
    meter: Meter | None = None,
) -> Packed:
    """Write the tensors of the `.terse` file `source` to the safetensors file `target`, shared ones once for each name.

    Raises ArtifactError if `source` is damaged, ModelError if `target` cannot be written.
    """
    begun, target, meter = time.perf_counter(), Path(target), meter or Meter()
    _refuse_foreign(target, force, lambda head: head[8:9] == b"{", "a safetensors file")
    with opened(source) as document, _pool(threads) as each:
        layout, names = _layout(document, target)
        with meter.over(sum(size for _, _, size in layout.values())):
            metadata = document.text.recipe.get("pack", {}).get("metadata", {})
            tensors = _tensors(document, names, each, meter)
            write_safetensors(target, layout, tensors, metadata if isinstance(metadata, dict) else {})
        quantized = sum(entry.form == "uniform" for entry in document.entries)
        return Packed(
            str(target), len(layout), quantized, document.total, target.stat().st_size, time.perf_counter() - begun
        )


def _contents(state: StateDict, precision: Precision, calibrated: bool) -> Contents:
    metadata = {"metadata": state.metadata} if state.metadata else {}
    recipe = {"pack": precision.to_dict() | ({"calibrated": True} if calibrated else {}) | metadata}
    versions = {"tersenet": __version__, "torch": str(torch.__version__).split("+")[0]}
    return Contents({}, state.aliases, recipe=recipe, versions=versions, data="")


def _layout(document: Document, target: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], dict[str, str]]:
    """Name → (type, shape, bytes), and name → name in the file: wide numbers first, so that all of them are aligned."""
    entries = {entry.name: entry for entry in document.entries}
    names = {name: name for name in entries} | document.text.aliases
    for name in names.values():
        if entries[name].dtype not in SAFE:
            raise ArtifactError(f"tensor '{name}' is of type {entries[name].dtype[:40]}, which {target.suffix} lacks")
    width = {name: getattr(torch, entries[stored].dtype).itemsize for name, stored in names.items()}
    names = {name: names[name] for name in sorted(names, key=lambda name: -width[name])}
    layout = {}
    for name, stored in names.items():
        shape = entries[stored].shape
        layout[name] = (entries[stored].dtype, shape, torch.Size(shape).numel() * width[name])
    return layout, names


def _tensors(document: Document, names: dict[str, str], each: Map, meter: Meter) -> Iterator[tuple[str, torch.Tensor]]:
    entries = {entry.name: entry for entry in document.entries}
    for name, stored in names.items():
        for part in decoded(entries[stored], each):
            yield name, part
            meter.advance(part.numel() * part.itemsize)


@contextmanager
def _pool(threads: int) -> Iterator[Map]:
    """`map` over so many threads."""
    count = threads or torch.get_num_threads()
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count) as pool:
        yield pool.map


def _refuse_foreign(target: Path, force: bool, ours: Callable[[bytes], bool], kind: str) -> None:
    """Raises RecipeError where `target` is something else than a file of this kind."""
    try:
        with target.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {why(error)}") from None
    if not force and head and not ours(head):
        raise RecipeError(f"{target}: is there already and is not {kind}; give --force to replace it")
