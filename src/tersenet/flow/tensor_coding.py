"""One tensor as an entry of a file and back, at the speed of memory: as it is, rounded to N bits, or to an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tersenet.artifact.entry import Entry
from tersenet.artifact.stream_tables import quick_stream, quick_table
from tersenet.artifact.tables import decode_table, encode_table
from tersenet.artifact.tensor import decode_entry, encode_code
from tersenet.coding.base import CodingError
from tersenet.coding.lanes import MOST, NAME, Map, decode_bytes
from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError, RecipeError
from tersenet.flow.step_search import Grid, bits_grid, error_grid
from tersenet.forms import decode
from tersenet.forms.rotated import UNSIGNED, rotated
from tersenet.forms.tables import dtype_name, to_table

SMALL = 1 << 16
"""Bytes below which a tensor goes through all coders, since their speed does not matter."""

ROUNDED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BAND = 1 << 20
"""Entries decoded at once."""


@dataclass(frozen=True)
class Precision:
    """What may be lost. Neither: nothing. bits: 2 to 8 for each weight of two or more dimensions, with a step for each
    output channel. rmse: between 0 and 1, the root of the mean squared error relative to that of the weight, tensor by
    tensor."""

    bits: int | None = None
    rmse: float | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and self.rmse is not None:
            raise RecipeError("--bits and --rmse: only one can say what may be lost")
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise RecipeError(f"--bits {self.bits}: must be from 2 to 8")
        if self.rmse is not None and not 0 < self.rmse < 1:
            raise RecipeError(f"--rmse {self.rmse:g}: must lie between 0 and 1, as 0.01")

    def to_dict(self) -> dict[str, Any]:
        found = {key: value for key, value in (("bits", self.bits), ("rmse", self.rmse)) if value is not None}
        return found or {"lossless": True}


def can_be_rounded(tensor: torch.Tensor) -> bool:
    """Tensors of fewer than two dimensions, and of integers, always stay as they are."""
    return tensor.ndim >= 2 and tensor.dtype in ROUNDED and tensor.numel() > 0


def encoded(
    name: str, tensor: torch.Tensor, precision: Precision, each: Map = map, importance: torch.Tensor | None = None
) -> Entry:
    """importance: what the squared error of each entry counts, broadcastable to the tensor; None: all the same.

    Raises ModelError, naming the tensor, for NaN and infinities that would have to be rounded.
    """
    grid = None
    try:
        if can_be_rounded(tensor):
            if precision.bits is not None:
                grid = bits_grid(tensor, precision.bits, each, importance)
            elif precision.rmse is not None:
                grid = error_grid(tensor, precision.rmse, each, importance)
    except ModelError as error:
        raise ModelError(f"'{name}' {error}") from None
    return _exact(name, tensor, each) if grid is None else _uniform(name, tensor, grid, each)


def _exact(name: str, tensor: torch.Tensor, each: Map) -> Entry:
    turned = tensor.dtype in UNSIGNED
    form, values = "rotated" if turned else "dense", rotated(tensor) if turned else to_table(tensor)
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    if values.nbytes < SMALL:
        return encode_code(name, Code(form, shape, {}, {"values": values}, {}, dtype), "auto")
    return Entry(name, form, dtype, shape, {}, (), (quick_table("values", values, each),))


def _uniform(name: str, tensor: torch.Tensor, grid: Grid, each: Map) -> Entry:
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    options = {"axis": grid.axis, "low": grid.low}
    if grid.levels > MOST or grid.symbols.nbytes < SMALL:
        symbols = Symbols(grid.symbols.reshape(-1).astype(np.int32), grid.levels, zero=True)
        coder = "ans" if grid.levels > MOST and grid.symbols.nbytes >= SMALL else "auto"
        code = Code("uniform", shape, {"index": symbols}, {"codebook": grid.steps}, options, dtype)
        return encode_code(name, code, coder)
    stream = quick_stream("index", grid.symbols.reshape(-1), grid.levels, True, each)
    return Entry(name, "uniform", dtype, shape, options, (stream,), (encode_table("codebook", grid.steps, "auto"),))


def decoded(entry: Entry, each: Map = map) -> Iterator[torch.Tensor]:
    """The tensor's entries in order, in parts of one dimension or whole. Raises ArtifactError if they are malformed."""
    stream = next(iter(entry.streams), None)
    steps = next((table for table in entry.tables if table.name == "codebook"), None)
    quick = stream is not None and stream.coder == NAME and stream.name == "index" and "low" in entry.options
    if entry.form == "uniform" and quick and stream and steps and len(entry.streams) == len(entry.tables) == 1:
        yield from _rows(entry, np.asarray(decode_table(steps)), each)
        return
    try:
        found = decode(decode_entry(entry, each))
    except ArtifactError as error:
        raise ArtifactError(f"tensor '{entry.name}': {error}" if entry.name not in str(error) else str(error)) from None
    if tuple(found.shape) != entry.shape or dtype_name(found.dtype) != entry.dtype:
        raise ArtifactError(f"malformed: tensor '{entry.name}' is not of the type and shape that the index says")
    yield found


def _rows(entry: Entry, steps: np.ndarray, each: Map) -> Iterator[torch.Tensor]:
    """Of form `uniform`, without an array of wide integers."""
    from tersenet.flow.grid_kernels import values_of

    stream, axis = entry.streams[0], entry.options.get("axis", -1)
    count = entry.shape[0] if axis == 0 and entry.shape else 1
    if axis not in (-1, 0) or steps.dtype != np.float32 or steps.size != count or entry.dtype == "float64":
        yield decode(decode_entry(entry, each))
        return
    try:
        symbols = decode_bytes(stream.payload, stream.length, stream.alphabet, each)
    except CodingError as error:
        raise ArtifactError(f"tensor '{entry.name}': malformed: stream 'index' cannot be decoded: {error}") from None
    if len(symbols) != torch.Size(entry.shape).numel():
        raise ArtifactError(f"tensor '{entry.name}': {len(symbols)} entries do not fill its shape {entry.shape}")
    rows, flat = symbols.reshape(count, -1), steps.reshape(-1)
    if count == 1:  # bands of one row, all of one step
        rows = symbols.reshape(1, -1)
        bands = [(rows[:, begin : begin + BAND], flat) for begin in range(0, rows.shape[1], BAND)]
    else:
        tall = max(BAND // max(rows.shape[1], 1), 1)
        bands = [(rows[begin : begin + tall], flat[begin : begin + tall]) for begin in range(0, count, tall)]

    def values(band: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
        out = np.empty(band[0].shape, np.float32)
        values_of(band[0], band[1], entry.options["low"], out)
        return torch.from_numpy(out).to(getattr(torch, entry.dtype))

    yield from each(values, bands)
